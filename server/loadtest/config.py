"""LoadConfig and StartupConfig: options of `headrace bench serve` and `startup`, with the names of `vllm bench`."""

import enum
from dataclasses import dataclass

from engine.config import option


class LoadEndpoint(enum.StrEnum):
    COMPLETIONS = "completions"
    CHAT = "chat"


class PromptFormat(enum.StrEnum):
    AUTO = "auto"  # ids for single completions, text for chat and conversations
    IDS = "ids"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class LoadConfig:
    """The load to put on a server, and the output of results. None means no limit, or no output."""

    url: str = option("http://127.0.0.1:8000", "Address of the server, without /v1.", group="Server")
    endpoint: LoadEndpoint = option(LoadEndpoint.COMPLETIONS, "API to call, always streaming.", group="Server")
    model: str | None = option(None, "Model to request (default: the first of /v1/models).", group="Server")
    timeout: float = option(600.0, "Seconds until a request counts as failed.", group="Server", metavar="S", minimum=1)
    temperature: float = option(0.0, "Sampling temperature; 0 is greedy.", group="Server", minimum=0)
    ignore_eos: bool = option(True, "Request outputs of exactly the given length.", group="Server")
    extra_body: str | None = option(
        None, "JSON object with fields to add to every request.", group="Server", metavar="JSON"
    )
    num_prompts: int = option(32, "Requests (with --num-turns: conversations).", group="Load", minimum=1)
    max_concurrency: int | None = option(None, "Maximum requests at once (default: no limit).", group="Load", minimum=1)
    request_rate: float | None = option(
        None, "Requests started per second, at random times (default: all at once).", group="Load", minimum=1e-6
    )
    burstiness: float = option(
        1.0,
        "Shape of the gamma distribution of the times between requests: 1 is a Poisson process, smaller values come in "
        "bursts, larger ones are steadier.",
        group="Load",
        minimum=1e-3,
    )
    num_warmups: int = option(1, "Requests before the measurement, one by one.", group="Load", minimum=0)
    seed: int = option(0, "Seed of prompts, lengths and arrival times.", group="Load", minimum=0)
    input_len: str = option(
        "128",
        "Prompt tokens, without the prefix: 128, uniform 64:512, or lognormal:MEDIAN:SIGMA[:MAX].",
        group="Prompts",
    )
    output_len: str = option("128", "Output tokens, in the same forms.", group="Prompts")
    prefix_len: int = option(0, "Tokens of a prefix that prompts share.", group="Prompts", minimum=0)
    num_prefixes: int = option(1, "Different prefixes, taken in turn.", group="Prompts", minimum=1)
    num_turns: int = option(
        1, "Turns of a conversation; each request sends all previous turns and answers.", group="Prompts", minimum=1
    )
    prompt_format: PromptFormat = option(
        PromptFormat.AUTO,
        "Random token ids of exact length, or text of about that length; auto uses ids if the API takes them.",
        group="Prompts",
    )
    token_id_range: str = option(
        "1000:20000",
        "Token ids to draw prompts from; ordinary tokens in most vocabularies.",
        group="Prompts",
        metavar="LOW:HIGH",
    )
    dataset_path: str | None = option(
        None,
        'JSON lines with "prompt" and optionally "output_tokens" and "prediction", used instead of generated prompts.',
        group="Prompts",
        metavar="FILE",
    )
    predictions: bool = option(False, "Send each line's prediction in OpenAI's `prediction`.", group="Prompts")
    goodput: tuple[str, ...] = option(
        (),
        "Limits in ms for ttft, tpot, itl or e2el, such as ttft:500 tpot:50; counts requests that meet all of them "
        "(default: none).",
        group="Results",
        metavar="NAME:MS",
    )
    json: str | None = option(None, "File for all results as JSON (default: none).", group="Results", metavar="FILE")
    plot: str | None = option(
        None,
        "File for a plot, such as load.png; needs the extra 'bench' (default: none).",
        group="Results",
        metavar="FILE",
    )


@dataclass(frozen=True, slots=True)
class StartupConfig:
    """Options of `headrace bench startup`, which times the phases of a server's start."""

    num_iters: int = option(5, "Measured starts.", group="Benchmark", minimum=1)
    num_iters_warmup: int = option(
        1, "Warm-up starts, which compile kernels and fill caches.", group="Benchmark", minimum=0
    )
    json: str | None = option(None, "File for the results as JSON (default: none).", group="Benchmark", metavar="FILE")
