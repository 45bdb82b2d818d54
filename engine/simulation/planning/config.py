"""PlanConfig: the options of `headrace plan`. The command line imports this: no torch here."""

from dataclasses import dataclass
from functools import partial

from engine.config import option

_load = partial(option, group="Load")
_hardware = partial(option, group="Hardware")
_results = partial(option, group="Results")

MOST_RATE = 1e9  # requests a second; far more than servers compute


@dataclass(frozen=True, slots=True)
class PlanConfig:
    """Load, limits and hardware of a plan."""

    input: str = _load("500", "Prompt tokens of a request: 128, uniform 64:512, or lognormal:MEDIAN:SIGMA[:MAX].")
    output: str = _load("200", "Output tokens of a request, in the same forms.")
    rate: float | None = _load(
        None,
        "Requests per second, at random times; or give --concurrency (default: none).",
        minimum=0.000001,
        maximum=MOST_RATE,
    )
    concurrency: int | None = _load(
        None, "Users, each of whom sends the next request when the last one is answered (default: none).", minimum=1
    )
    slo: str = _load(
        "ttft=2s,tpot=100ms",
        "Limits that 95 % of the requests must keep: ttft (time to the first token), tpot (time per further token) and "
        "request (whole request), each as NAME=TIME with ms or s.",
    )
    num_requests: int = _load(200, "Requests of each simulation; more find rare waits, and take longer.", minimum=20)
    seed: int = _load(0, "Seed of the load; the same seed gives the same plan.", minimum=0)
    hardware: str = _hardware(
        "this",
        "Hardware of each server: 'this' machine, whose limits are measured in seconds; a file of `headrace simulate "
        "--save-hardware`, with measured steps; or a card by its published figures; CARDS.",
        metavar="{this,FILE,CARD}",
    )
    replicas: int = _hardware(1, "Number of servers, which take requests in turn.", minimum=1)
    price: float | None = _results(None, "Price of a server for an hour, to show costs (default: none).", minimum=0)
    changes: bool = _results(True, "Also show what other options, longer prompts or another server would change.")
    json: bool = _results(False, "Print the plan as JSON.")
