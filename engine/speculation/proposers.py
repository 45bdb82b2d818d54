"""What proposes drafts: look-ups, and a draft model."""

import enum
from typing import Protocol

from engine.scheduling.sequence import Sequence


class Source(enum.Enum):
    """Where drafts come from; acceptance is learned for each."""

    PREDICTION = "prediction"
    NGRAM = "ngram"
    DRAFT_MODEL = "draft_model"


class Lookup(Protocol):
    """A proposer without a model: it looks tokens up, at no cost worth counting."""

    source: Source

    def begin_step(self) -> None:
        """Called before the proposals of each step."""

    def propose(self, sequence: Sequence, num_tokens: int) -> list[int]:
        """Up to `num_tokens` tokens that may follow `sequence.tokens`; none if there is nothing to go by.

        Called with a sequence whose tokens have only grown since the last call.
        """

    def release(self, sequence: Sequence) -> None:
        """Forget what is held for a finished sequence."""


class Drafter(Protocol):
    """A draft model. Seconds are None where they are not typical."""

    @property
    def relative_size(self) -> float:
        """Bytes that a pass reads, over those of the target."""

    def begin_step(self) -> None:
        """Forget the last step's drafts."""

    def room(self, target: Sequence) -> int:
        """The longest draft for this sequence."""

    def lag(self, target: Sequence) -> int:
        """Tokens of its context to catch up with before it can draft for this sequence."""

    def catch_up(self, chunks: list[tuple[Sequence, int]]) -> float | None:
        """Compute so many tokens of each context; returns the seconds."""

    def draft(self, lengths: list[tuple[Sequence, int]], *, least_reach: float) -> tuple[list[list[int]], float | None]:
        """The drafts of sequences without lag, at most as long as asked for, and the seconds of one pass.

        least_reach: a draft ends when all of its tokens are less likely to stand than this, in the model's own opinion.
        """

    def release(self, sequence: Sequence) -> None:
        """Forget what is held for a finished sequence."""
