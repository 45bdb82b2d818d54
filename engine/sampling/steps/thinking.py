"""BudgetedThought: rows that must end a thought because its budget is spent."""

import dataclasses
from collections import abc

import torch

from engine.protocol import ThinkingBudget
from engine.sampling.rows import LogitsRow


@dataclasses.dataclass(slots=True)
class BudgetedThought:
    """A sequence's thought after `num_seen` of its output tokens. num_tokens: of the thought; None before it begins."""

    budget: ThinkingBudget
    num_tokens: int | None
    num_seen: int = 0
    has_ended: bool = False

    @classmethod
    def of(cls, budget: ThinkingBudget | None) -> "BudgetedThought | None":
        return None if budget is None else cls(budget, 0 if budget.start_id is None else None)

    def end_if_spent(self, logits: torch.Tensor, row: LogitsRow) -> bool:
        """Rule out all tokens but the mark that ends the thought, if the row's budget is spent; returns whether it is.

        logits: [V] fp32. Where a grammar rules the mark out, as within a character of several tokens, a later row ends
        the thought.
        """
        self._push(row.known_from(row.num_prompt + self.num_seen))
        ahead = dataclasses.replace(self)
        ahead._push(row.drafted)
        is_spent = ahead.num_tokens is not None and not ahead.has_ended and ahead.num_tokens >= self.budget.max_tokens
        if not is_spent or logits[self.budget.end_id] == -torch.inf:
            return False
        logits.fill_(-torch.inf)
        logits[self.budget.end_id] = 0.0
        return True

    def _push(self, token_ids: abc.Iterable[int]) -> None:
        for token_id in token_ids:
            self.num_seen += 1
            if self.num_tokens is not None:
                self.has_ended |= token_id == self.budget.end_id
                self.num_tokens += 1
            elif token_id == self.budget.start_id:
                self.num_tokens = 0
