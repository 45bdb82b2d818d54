"""FinetuningJobsConfig: options of fine-tuning jobs on the server; a part of ServerConfig."""

import enum
import os
from dataclasses import dataclass
from functools import partial

from engine.config import option
from engine.errors import OptionError

_adapters = partial(option, group="Adapters")


class FinetuningYield(enum.StrEnum):
    """Whether and how fine-tuning gives way to requests."""

    ALWAYS = "always"  # stopped while a request runs or waits
    SHARE = "share"  # at the operating system's idle priority
    NEVER = "never"  # like any other process


@dataclass(frozen=True, slots=True)
class FinetuningJobsConfig:
    """Options of fine-tuning jobs on the server. Raises OptionError for more threads than CPUs."""

    finetune_yield: FinetuningYield = _adapters(
        FinetuningYield.ALWAYS,
        "How fine-tuning gives way to requests: always (it stops while a request runs or waits), share (it runs at the "
        "system's idle priority) or never.",
    )
    finetune_threads: int = _adapters(1, "Threads that a fine-tuning job computes on.", minimum=1)

    def __post_init__(self) -> None:
        refuse_more_than_cpus("--finetune-threads", self.finetune_threads)


def refuse_more_than_cpus(flag: str, num_threads: int) -> None:
    """Raise OptionError if there are more threads than CPUs that this process may use."""
    num_cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if num_threads > num_cpus:
        raise OptionError(
            f"{flag} is {num_threads:,}; this process can run {num_cpus:,} at once (the machine's CPUs, within its "
            "cpuset or taskset), and more would wait for each other; lower it"
        )
