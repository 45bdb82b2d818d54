"""Sources of drafts: lookups, and a draft model."""

import enum
from dataclasses import dataclass
from typing import Protocol

from engine.scheduling.sequence import Sequence


class DraftSource(enum.Enum):
    """The source of a draft. Acceptance is learned for each."""

    PREDICTION = "prediction"
    NGRAM = "ngram"
    DRAFT_MODEL = "draft_model"


@dataclass(frozen=True, slots=True)
class DraftCandidate:
    """A draft that one sequence could have. Of a draft model's tokens only the number is known yet.

    num_behind: context tokens that the draft model must compute first. fallback: the best lookup until then.
    """

    sequence: Sequence
    source: DraftSource
    token_ids: list[int]
    num_behind: int = 0
    fallback: "DraftCandidate | None" = None


class LookupProposer(Protocol):
    """A proposer without a model: it looks tokens up, at no cost worth counting."""

    source: DraftSource

    def begin_step(self) -> None:
        """Prepare for the proposals of a step."""

    def propose(self, sequence: Sequence, num_tokens: int) -> list[int]:
        """Return up to `num_tokens` tokens that may follow `sequence.tokens`; none if nothing suggests any.

        Called with a sequence whose tokens have only grown since the last call.
        """

    def release(self, sequence: Sequence) -> None:
        """Forget what is stored for a finished sequence."""


class Drafter(Protocol):
    """A draft model. Seconds are None where they are not typical."""

    @property
    def relative_size(self) -> float:
        """Bytes that a pass reads, over the target's."""

    def begin_step(self) -> None:
        """Forget the last step's drafts."""

    def max_draft_len(self, target: Sequence) -> int:
        """Return the longest draft for this sequence."""

    def num_behind(self, target: Sequence) -> int:
        """Return the context tokens to catch up with before the model can draft for this sequence."""

    def catch_up(self, chunks: list[tuple[Sequence, int]]) -> float | None:
        """Compute the given number of context tokens of each sequence; returns the seconds."""

    def draft(
        self, lengths: list[tuple[Sequence, int]], *, min_path_prob: float
    ) -> tuple[list[list[int]], float | None]:
        """Return the drafts of sequences that need no catching up, of at most the given lengths, and the seconds of one
        pass.

        The blocks of each sequence cover its tokens and its draft. min_path_prob: a draft ends when the probability
        that all of its tokens are accepted, as the model estimates it, is less than this.
        """

    def release(self, sequence: Sequence) -> None:
        """Forget what is stored for a finished sequence."""
