"""FinetuningConfig: the options of fine-tuning jobs that the server runs; a part of ServerConfig."""

import enum
from dataclasses import dataclass

from engine.config import option


class FinetuneYield(enum.StrEnum):
    """How training gives way to requests."""

    ALWAYS = "always"  # it is stopped while a request runs or waits
    SHARE = "share"  # it computes only what the scheduler of the system leaves
    NEVER = "never"  # it computes as any other process


@dataclass(frozen=True, slots=True)
class FinetuningConfig:
    finetune_yield: FinetuneYield = option(
        FinetuneYield.ALWAYS,
        "How fine-tuning gives way to requests: always (it is stopped while any runs or waits), share (it runs at the "
        "system's idle priority) or never.",
        group="Adapters",
    )
    finetune_threads: int = option(1, "Threads that a fine-tuning job computes on.", group="Adapters", minimum=1)
