"""Interfaces of draft sources: lookups, and a draft model."""

import enum
from dataclasses import dataclass
from typing import Protocol

from engine.scheduling.sequence import Sequence


class DraftSource(enum.Enum):
    """Sources of drafts. Acceptance is estimated separately for each."""

    PREDICTION = "prediction"
    NGRAM = "ngram"
    DRAFT_MODEL = "draft_model"


@dataclass(frozen=True, slots=True)
class DraftCandidate:
    """A possible draft of one sequence. A draft model's token_ids are placeholders: the model has not drafted yet.

    num_behind: context tokens that the draft model must compute first. fallback: the best lookup's draft, used
    until the model has caught up.
    """

    sequence: Sequence
    source: DraftSource
    token_ids: list[int]
    num_behind: int = 0
    fallback: "DraftCandidate | None" = None


class LookupProposer(Protocol):
    """A source that looks drafts up, without a model. Its cost is taken as zero."""

    source: DraftSource

    def begin_step(self) -> None:
        """Prepare for the proposals of a step."""

    def propose(self, sequence: Sequence, num_tokens: int) -> list[int]:
        """Return up to `num_tokens` tokens that may follow `sequence.tokens`; [] if there is no suggestion.

        Between two calls, the sequence's tokens may only have grown.
        """

    def release(self, sequence: Sequence) -> None:
        """Release the state of a finished sequence."""


class Drafter(Protocol):
    """A draft model. Returned seconds are None if they are not representative of later passes."""

    @property
    def relative_size(self) -> float:
        """Bytes that a pass reads, relative to a pass of the target model."""

    def begin_step(self) -> None:
        """Discard the last step's drafts."""

    def max_draft_len(self, target: Sequence) -> int:
        """Return the maximum length of a draft for this sequence."""

    def num_behind(self, target: Sequence) -> int:
        """Return how many context tokens the model must compute before it can draft for this sequence."""

    def catch_up(self, chunks: list[tuple[Sequence, int]]) -> float | None:
        """Compute the given number of context tokens of each sequence; return the seconds."""

    def draft(
        self, lengths: list[tuple[Sequence, int]], *, min_path_prob: float
    ) -> tuple[list[list[int]], float | None]:
        """Return drafts of at most the given lengths, and the seconds of one pass.

        Each sequence must need no catching up, and have blocks for its tokens and draft. min_path_prob: a draft ends
        when the estimated probability that all of its tokens are accepted falls below this.
        """

    def release(self, sequence: Sequence) -> None:
        """Release the state of a finished sequence."""
