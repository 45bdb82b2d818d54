"""What proposes drafts, and what a proposal is."""

import enum
from dataclasses import dataclass
from typing import Protocol

from engine.sequence import Sequence


class Source(enum.Enum):
    """Where drafts come from; acceptance is learned for each."""

    PREDICTION = "prediction"
    NGRAM = "ngram"
    DRAFT_MODEL = "draft_model"


@dataclass(frozen=True, slots=True)
class Proposal:
    """Tokens that may follow a sequence. None of them has been computed or verified."""

    source: Source
    token_ids: list[int]


class Lookup(Protocol):
    """A proposer without a model: it looks tokens up, at no cost worth counting."""

    source: Source

    def propose(self, sequence: Sequence, num_tokens: int) -> list[int]:
        """Up to `num_tokens` tokens that may follow `sequence.tokens`; none if there is nothing to go by.

        Called with a sequence whose tokens have only grown since the last call.
        """

    def release(self, sequence: Sequence) -> None:
        """Forget what is held for a finished sequence."""
