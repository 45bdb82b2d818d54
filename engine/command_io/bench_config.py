"""Options of the benchmarks that run the engine without a server. The command line imports this: no torch here."""

from dataclasses import dataclass
from functools import partial

from engine.config import option

_option = partial(option, group="Benchmark")
_SEED = "Seed of the prompts."
_JSON = "File for the results as JSON (default: none)."


@dataclass(frozen=True, slots=True)
class LatencyConfig:
    """Options of `headrace bench latency`: how long a batch takes, from the first step to the last token."""

    input_len: int = _option(128, "Prompt tokens of each sequence.", minimum=1)
    output_len: int = _option(128, "Output tokens of each sequence.", minimum=2)
    batch_size: tuple[int, ...] = _option((1,), "Batch sizes to measure, in sequences.", metavar="N", minimum=1)
    num_iters: int = _option(5, "Measured runs of each batch size.", minimum=1)
    num_iters_warmup: int = _option(1, "Warm-up runs.", minimum=0)
    seed: int = _option(0, _SEED, minimum=0)
    json: str | None = _option(None, _JSON, metavar="FILE")


@dataclass(frozen=True, slots=True)
class ThroughputConfig:
    """Options of `headrace bench throughput`: tokens per second when all requests arrive at the same time."""

    num_prompts: int = _option(32, "Requests, all sent at once.", minimum=1)
    input_len: str = _option(
        "128", "Prompt tokens, without the prefix: 128, uniform 64:512, or lognormal:MEDIAN:SIGMA[:MAX]."
    )
    output_len: str = _option("128", "Output tokens, in the same forms.")
    prefix_len: int = _option(0, "Tokens of a prefix that all prompts share.", minimum=0)
    num_iters: int = _option(3, "Measured runs, each with different prompts.", minimum=1)
    num_iters_warmup: int = _option(1, "Warm-up runs.", minimum=0)
    seed: int = _option(0, "Seed of prompts and lengths.", minimum=0)
    json: str | None = _option(None, _JSON, metavar="FILE")


@dataclass(frozen=True, slots=True)
class RooflineConfig:
    """Options of `headrace bench roofline`: how close each phase of a step comes to this machine's limits."""

    prefill_len: tuple[int, ...] = _option(
        (128, 512, 2048), "Lengths of the prompts for measuring prefill.", metavar="N", minimum=1
    )
    batch_size: tuple[int, ...] = _option(
        (1, 2, 4, 8, 16, 32, 64), "Sequences that decode at once.", metavar="N", minimum=1
    )
    context_len: int = _option(256, "Tokens before each decoding sequence's outputs.", minimum=1)
    num_steps: int = _option(16, "Measured decode steps of each batch size.", minimum=1)
    num_iters: int = _option(3, "Measured prefills of each length.", minimum=1)
    seed: int = _option(0, _SEED, minimum=0)
    json: str | None = _option(None, _JSON, metavar="FILE")


@dataclass(frozen=True, slots=True)
class SpeculationConfig:
    """Options of `headrace bench spec`: the speed-up from drafts at each batch size, measured in alternating runs with
    and without drafts."""

    case: tuple[str, ...] = _option(
        (),
        "Where drafts come from (draft, ngram, prediction) and for which texts (the rest of a file: code, a question "
        "about one: chat, an edit of one: edit); default: draft:code and draft:chat if there is a draft model, "
        "ngram:edit and prediction:edit.",
        metavar="DRAFTS:TEXT",
    )
    batch_size: tuple[int, ...] = _option(
        (1, 4, 8, 16), "Batch sizes to measure, in sequences.", metavar="N", minimum=1
    )
    prompt_lines: int = _option(30, "Lines of source code in each prompt.", minimum=1)
    output_len: int = _option(128, "Output tokens of each sequence.", minimum=2)
    temperature: float = _option(0.0, "Sampling temperature; 0 is greedy.", minimum=0)
    num_iters: int = _option(10, "Measured turns of each case and batch size, with new texts each.", minimum=1)
    num_iters_warmup: int = _option(1, "Warm-up turns, in which the engine learns.", minimum=0)
    plot: str | None = _option(
        None,
        "File for the plot of speed-up against batch size, such as speedup.png; needs the extra 'bench' (default: "
        "none).",
        metavar="FILE",
    )
    json: str | None = _option(None, _JSON, metavar="FILE")


BenchConfig = LatencyConfig | ThroughputConfig | RooflineConfig | SpeculationConfig

# Names of `headrace bench NAME` and of `python -m engine.commands.bench NAME`.
BENCH_CONFIGS: dict[str, type[BenchConfig]] = {
    "latency": LatencyConfig,
    "throughput": ThroughputConfig,
    "roofline": RooflineConfig,
    "spec": SpeculationConfig,
}
