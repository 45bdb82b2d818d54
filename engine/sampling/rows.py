"""LogitsRow: the inputs of sampling for one row of logits."""

from typing import NamedTuple

from engine.protocol import SamplingParams, ThinkingBudget
from engine.scheduling.grammar import OutputGrammar
from engine.scheduling.plan import StepPlan
from engine.scheduling.sequence import Sequence


class LogitsRow(NamedTuple):
    """One row of logits, which predicts the token at `position` of a sequence.

    Its prefix is the sequence's first `num_known` tokens and the first `num_drafted` tokens of the draft, assumed to be
    accepted. Sampling steps depend only on this prefix. A row does not change when its sequence advances, except for
    the shared grammar, which advances only after the step's result is known.
    """

    sequence_id: str
    sampling: SamplingParams
    thinking: ThinkingBudget | None
    grammar: OutputGrammar | None
    seed: int
    tokens: list[int]  # the sequence's, which only grow: those from num_known on are later than this row
    num_prompt: int
    position: int
    draft: list[int]
    num_drafted: int = 0

    @property
    def drafted(self) -> list[int]:
        """Draft tokens before the predicted token."""
        return self.draft[: self.num_drafted]

    @property
    def num_known(self) -> int:
        """Number of tokens before the draft: the prompt and the accepted output."""
        return self.position - self.num_drafted

    @property
    def num_output(self) -> int:
        """Number of output tokens before the predicted token, draft tokens included."""
        return self.position - self.num_prompt

    @property
    def takes_best(self) -> bool:
        """Whether the row's token is the argmax of the raw logits, or with a grammar, of the allowed ones."""
        return self.sampling.is_greedy and not self.sampling.edits_logits and self.thinking is None

    def known_from(self, start: int) -> list[int]:
        """Return the known tokens from position `start` on, without the draft."""
        return self.tokens[start : self.num_known]


def row_of(sequence: Sequence, num_known: int, num_drafted: int = 0) -> LogitsRow:
    """Return the row after `num_known` tokens of a sequence and `num_drafted` tokens of its draft."""
    request = sequence.request
    return LogitsRow(
        request.id,
        request.sampling,
        request.thinking,
        sequence.grammar,
        sequence.seed,
        sequence.tokens,
        sequence.num_prompt,
        num_known + num_drafted,
        sequence.draft,
        num_drafted,
    )


def rows_of_plan(plan: StepPlan) -> list[LogitsRow]:
    """Return the rows of a step's logits in order: for each item that needs logits, one per draft token and one
    more."""
    return [
        row_of(sequence, start + num_new - num_draft, num_drafted)
        for sequence, start, num_new, num_draft, needs_logits in plan.items
        if needs_logits
        for num_drafted in range(num_draft + 1)
    ]


def first_rows(rows: list[LogitsRow]) -> list[int]:
    """Return the index of the first row of each sequence."""
    return [index for index, row in enumerate(rows) if not row.num_drafted]
