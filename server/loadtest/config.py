"""LoadConfig and StartupConfig: options of `headrace bench serve` and `startup`, with the names of `vllm bench`."""

import enum
from dataclasses import dataclass
from functools import partial

from engine.config import option

_server = partial(option, group="Server")
_load = partial(option, group="Load")
_prompts = partial(option, group="Prompts")
_results = partial(option, group="Results")
_benchmark = partial(option, group="Benchmark")


class LoadEndpoint(enum.StrEnum):
    COMPLETIONS = "completions"
    CHAT = "chat"


class PromptFormat(enum.StrEnum):
    AUTO = "auto"  # ids for single completions, text for chat and conversations
    IDS = "ids"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class LoadConfig:
    """Options of `headrace bench serve`. None means no limit, or no output."""

    url: str = _server("http://127.0.0.1:8000", "Address of the server, without /v1.")
    endpoint: LoadEndpoint = _server(LoadEndpoint.COMPLETIONS, "API to call, always streaming.")
    model: str | None = _server(None, "Model to request (default: the first of /v1/models).")
    timeout: float = _server(600.0, "Seconds until a request counts as failed.", metavar="S", minimum=1)
    temperature: float = _server(0.0, "Sampling temperature; 0 is greedy.", minimum=0)
    ignore_eos: bool = _server(True, "Request outputs of exactly the given length.")
    extra_body: str | None = _server(None, "JSON object with fields to add to every request.", metavar="JSON")
    num_prompts: int = _load(32, "Requests (with --num-turns: conversations).", minimum=1)
    max_concurrency: int | None = _load(None, "Maximum requests at once (default: no limit).", minimum=1)
    request_rate: float | None = _load(
        None, "Requests started per second, at random times (default: all at once).", minimum=1e-6
    )
    burstiness: float = _load(
        1.0,
        "Shape of the gamma distribution of the times between requests: 1 is a Poisson process, smaller values come in "
        "bursts, larger ones are steadier.",
        minimum=1e-3,
    )
    num_warmups: int = _load(1, "Requests before the measurement, one by one.", minimum=0)
    seed: int = _load(0, "Seed of prompts, lengths and arrival times.", minimum=0)
    input_len: str = _prompts(
        "128", "Prompt tokens, without the prefix: 128, uniform 64:512, or lognormal:MEDIAN:SIGMA[:MAX]."
    )
    output_len: str = _prompts("128", "Output tokens, in the same forms.")
    prefix_len: int = _prompts(0, "Tokens of a prefix that prompts share.", minimum=0)
    num_prefixes: int = _prompts(1, "Different prefixes, taken in turn.", minimum=1)
    num_turns: int = _prompts(
        1, "Turns of a conversation; each request sends all previous turns and answers.", minimum=1
    )
    prompt_format: PromptFormat = _prompts(
        PromptFormat.AUTO,
        "Random token ids of exact length, or text of about that length; auto uses ids if the API takes them.",
    )
    token_id_range: str = _prompts(
        "1000:20000", "Token ids to draw prompts from; ordinary tokens in most vocabularies.", metavar="LOW:HIGH"
    )
    dataset_path: str | None = _prompts(
        None,
        'JSON lines with "prompt" and optionally "output_tokens" and "prediction", used instead of generated prompts.',
        metavar="FILE",
    )
    predictions: bool = _prompts(False, "Send each line's prediction in OpenAI's `prediction`.")
    goodput: tuple[str, ...] = _results(
        (),
        "Limits in ms for ttft, tpot, itl or e2el, such as ttft:500 tpot:50; counts requests that meet all of them "
        "(default: none).",
        metavar="NAME:MS",
    )
    json: str | None = _results(None, "File for all results as JSON (default: none).", metavar="FILE")
    plot: str | None = _results(
        None, "File for a plot, such as load.png; needs the extra 'bench' (default: none).", metavar="FILE"
    )


@dataclass(frozen=True, slots=True)
class StartupConfig:
    """Options of `headrace bench startup`, which times the phases of a server's start."""

    num_iters: int = _benchmark(5, "Measured starts.", minimum=1)
    num_iters_warmup: int = _benchmark(1, "Warm-up starts, which compile kernels and fill caches.", minimum=0)
    json: str | None = _benchmark(None, "File for the results as JSON (default: none).", metavar="FILE")
