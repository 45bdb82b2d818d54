"""LogitsRow: which token a line of logits predicts."""

from itertools import accumulate
from typing import NamedTuple

from engine.scheduling.sequence import Sequence


class LogitsRow(NamedTuple):
    """Predicts the token that follows the sequence's tokens and the first `num_drafted` of its draft.

    All that a sampling step depends on (the tokens before, how many are output, the position) belongs to that prefix.
    """

    sequence: Sequence
    num_drafted: int = 0

    @property
    def drafted(self) -> list[int]:
        """The draft tokens that the row assumes to be accepted."""
        return self.sequence.draft[: self.num_drafted]

    @property
    def position(self) -> int:
        """Of the predicted token."""
        return len(self.sequence.tokens) + self.num_drafted

    @property
    def num_output(self) -> int:
        """Output tokens before the predicted one."""
        return self.sequence.num_output + self.num_drafted

    @property
    def takes_best(self) -> bool:
        """Whether the token is that of the largest logit, which nothing but a grammar edits."""
        request = self.sequence.request
        return request.sampling.is_greedy and not request.sampling.edits_logits and request.thinking is None


def first_rows(sequences: list[Sequence]) -> list[int]:
    """The index of each sequence's first row of logits: it has one for each token of its draft and one more."""
    return [0, *accumulate(len(sequence.draft) + 1 for sequence in sequences)][:-1]
