"""Options of the benchmarks that run the engine without a server. The command line imports this: no torch here."""

from dataclasses import dataclass

from engine.config import option


@dataclass(frozen=True, slots=True)
class LatencyConfig:
    """Options of `headrace bench latency`: how long a batch takes, from the first step to the last token."""

    input_len: int = option(128, "Prompt tokens of each sequence.", group="Benchmark", minimum=1)
    output_len: int = option(128, "Output tokens of each sequence.", group="Benchmark", minimum=2)
    batch_size: tuple[int, ...] = option(
        (1,), "Batch sizes to measure, in sequences.", group="Benchmark", metavar="N", minimum=1
    )
    num_iters: int = option(5, "Measured runs of each batch size.", group="Benchmark", minimum=1)
    num_iters_warmup: int = option(1, "Warm-up runs.", group="Benchmark", minimum=0)
    seed: int = option(0, "Seed of the prompts.", group="Benchmark", minimum=0)
    json: str | None = option(None, "File for the results as JSON (default: none).", group="Benchmark", metavar="FILE")


@dataclass(frozen=True, slots=True)
class ThroughputConfig:
    """Options of `headrace bench throughput`: tokens per second when all requests arrive at the same time."""

    num_prompts: int = option(32, "Requests, all sent at once.", group="Benchmark", minimum=1)
    input_len: str = option(
        "128",
        "Prompt tokens, without the prefix: 128, uniform 64:512, or lognormal:MEDIAN:SIGMA[:MAX].",
        group="Benchmark",
    )
    output_len: str = option("128", "Output tokens, in the same forms.", group="Benchmark")
    prefix_len: int = option(0, "Tokens of a prefix that all prompts share.", group="Benchmark", minimum=0)
    num_iters: int = option(3, "Measured runs, each with different prompts.", group="Benchmark", minimum=1)
    num_iters_warmup: int = option(1, "Warm-up runs.", group="Benchmark", minimum=0)
    seed: int = option(0, "Seed of prompts and lengths.", group="Benchmark", minimum=0)
    json: str | None = option(None, "File for the results as JSON (default: none).", group="Benchmark", metavar="FILE")


@dataclass(frozen=True, slots=True)
class RooflineConfig:
    """Options of `headrace bench roofline`: how close each phase of a step comes to this machine's limits."""

    prefill_len: tuple[int, ...] = option(
        (128, 512, 2048), "Lengths of the prompts for measuring prefill.", group="Benchmark", metavar="N", minimum=1
    )
    batch_size: tuple[int, ...] = option(
        (1, 2, 4, 8, 16, 32, 64), "Sequences that decode at once.", group="Benchmark", metavar="N", minimum=1
    )
    context_len: int = option(256, "Tokens before each decoding sequence's outputs.", group="Benchmark", minimum=1)
    num_steps: int = option(16, "Measured decode steps of each batch size.", group="Benchmark", minimum=1)
    num_iters: int = option(3, "Measured prefills of each length.", group="Benchmark", minimum=1)
    seed: int = option(0, "Seed of the prompts.", group="Benchmark", minimum=0)
    json: str | None = option(None, "File for the results as JSON (default: none).", group="Benchmark", metavar="FILE")


@dataclass(frozen=True, slots=True)
class SpeculationConfig:
    """Options of `headrace bench spec`: the speed-up by drafts, by batch size, in turns with and without them."""

    case: tuple[str, ...] = option(
        (),
        "Where drafts come from (draft, ngram, prediction) and for which texts (the rest of a file: code, a question "
        "about one: chat, an edit of one: edit); default: draft:code and draft:chat if there is a draft model, "
        "ngram:edit and prediction:edit.",
        group="Benchmark",
        metavar="DRAFTS:TEXT",
    )
    batch_size: tuple[int, ...] = option(
        (1, 4, 8, 16), "Batch sizes to measure, in sequences.", group="Benchmark", metavar="N", minimum=1
    )
    prompt_lines: int = option(30, "Lines of source code in each prompt.", group="Benchmark", minimum=1)
    output_len: int = option(128, "Output tokens of each sequence.", group="Benchmark", minimum=2)
    temperature: float = option(0.0, "Sampling temperature; 0 is greedy.", group="Benchmark", minimum=0)
    num_iters: int = option(
        10, "Measured turns of each case and batch size, with new texts each.", group="Benchmark", minimum=1
    )
    num_iters_warmup: int = option(1, "Warm-up turns, in which the engine learns.", group="Benchmark", minimum=0)
    plot: str | None = option(
        None,
        "File for the plot of speed-up against batch size, such as speedup.png; needs the extra 'bench' (default: "
        "none).",
        group="Benchmark",
        metavar="FILE",
    )
    json: str | None = option(None, "File for the results as JSON (default: none).", group="Benchmark", metavar="FILE")


BenchConfig = LatencyConfig | ThroughputConfig | RooflineConfig | SpeculationConfig

# Names of `headrace bench NAME` and of `python -m engine.commands.bench NAME`.
BENCH_CONFIGS: dict[str, type[BenchConfig]] = {
    "latency": LatencyConfig,
    "throughput": ThroughputConfig,
    "roofline": RooflineConfig,
    "spec": SpeculationConfig,
}
