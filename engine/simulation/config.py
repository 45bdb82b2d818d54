"""SimulateConfig: the options of `headrace simulate`. The command line imports this: no torch here."""

from dataclasses import dataclass
from functools import partial

from engine.config import option

_load = partial(option, group="Load")
_fleet = partial(option, group="Fleet")
_results = partial(option, group="Results")


@dataclass(frozen=True, slots=True)
class SimulateConfig:
    """Load, fleet and results of a simulation."""

    synthetic: bool = _load(False, "Draw requests at random, instead of reading a trace.")
    rate: float = _load(1.0, "With --synthetic: requests per second, at random times.", minimum=0.000001)
    num_requests: int | None = _load(
        None, "With --synthetic the number of requests (default: 1000), else only the first N of the trace.", minimum=1
    )
    input_len: str = _load(
        "128",
        "With --synthetic: prompt tokens, without the prefix: 128, uniform 64:512, or lognormal:MEDIAN:SIGMA[:MAX].",
    )
    output_len: str = _load("128", "With --synthetic: output tokens, in the same forms.")
    prefix_len: int = _load(0, "With --synthetic: tokens of a prefix that requests share.", minimum=0)
    num_prefixes: int = _load(1, "With --synthetic: number of different prefixes.", minimum=1)
    rate_factor: float = _load(1.0, "With a trace: how many times as fast its requests come.", minimum=0.000001)
    seed: int = _load(0, "Seed of the load and of the policy; the same seed gives the same results.", minimum=0)
    replicas: int = _fleet(1, "Number of servers behind one front.", minimum=1)
    policy: str = _fleet(
        "round_robin",
        "How the front chooses a server: POLICIES, or a Python file of your own.",
        metavar="{NAME,FILE.py}",
    )
    hardware: str = _fleet(
        "this",
        "Hardware of each server: 'this' machine, measured now; a file of --save-hardware; or a card by its published "
        "figures; CARDS.",
        metavar="{this,FILE,CARD}",
    )
    save_hardware: str | None = _fleet(
        None, "File for the model's sizes and the hardware's figures, for --hardware (default: none).", metavar="FILE"
    )
    simulated_block_size: int | None = _fleet(
        None,
        "Tokens of a block of the KV cache in the simulation, a multiple of --block-size: larger blocks are quicker to "
        "play (default: up to 256, if that changes little).",
        minimum=1,
    )
    price: float | None = _results(None, "Price of a server for an hour, to show costs (default: none).", minimum=0)
    json: str | None = _results(None, "File for the results as JSON (default: none).", metavar="FILE")
    plot: str | None = _results(
        None, "File for a plot, such as load.png; needs the extra 'bench' (default: none).", metavar="FILE"
    )
