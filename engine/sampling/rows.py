"""LogitsRow: all that a sampling step may know of a line of logits."""

from typing import NamedTuple

from engine.protocol import SamplingParams, ThinkingBudget
from engine.scheduling.grammar import OutputGrammar
from engine.scheduling.plan import StepPlan
from engine.scheduling.sequence import Sequence


class LogitsRow(NamedTuple):
    """A line of logits, which predicts the token at `position` of a sequence.

    The tokens before it are the sequence's first `num_known` tokens and the first `num_drafted` of its draft, which the
    row assumes to be accepted. All that a sampling step depends on belongs to that prefix. A row is data: it stays as
    it is while its sequence advances. Only the grammar moves on, and not before the step's result is known.
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
        """The draft tokens before the predicted one."""
        return self.draft[: self.num_drafted]

    @property
    def num_known(self) -> int:
        """Tokens before the draft: the prompt and the accepted output."""
        return self.position - self.num_drafted

    @property
    def num_output(self) -> int:
        """Output tokens before the predicted one."""
        return self.position - self.num_prompt

    @property
    def takes_best(self) -> bool:
        """Whether the token is that of the largest logit, which nothing but a grammar edits."""
        return self.sampling.is_greedy and not self.sampling.edits_logits and self.thinking is None

    def known_from(self, start: int) -> list[int]:
        """Return the tokens from position `start` on, up to the draft."""
        return self.tokens[start : self.num_known]


def row_of(sequence: Sequence, num_known: int, num_drafted: int = 0) -> LogitsRow:
    """Return the row that follows a sequence's first `num_known` tokens and `num_drafted` tokens of its draft."""
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
    """Return the rows of a step's logits in order: for each item that needs logits, one a drafted token and one
    more."""
    return [
        row_of(sequence, start + num_new - num_draft, num_drafted)
        for sequence, start, num_new, num_draft, needs_logits in plan.items
        if needs_logits
        for num_drafted in range(num_draft + 1)
    ]


def first_rows(rows: list[LogitsRow]) -> list[int]:
    """Return the index of each sequence's first row."""
    return [index for index, row in enumerate(rows) if not row.num_drafted]
