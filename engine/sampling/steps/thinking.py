"""BudgetedThought: forces the end of each thought once the token budget of all is spent."""

import dataclasses
from collections import abc

import torch

from engine.protocol import ThinkingBudget
from engine.sampling.rows import LogitsRow


@dataclasses.dataclass(slots=True)
class BudgetedThought:
    """A sequence's thinking after `num_seen` output tokens. num_tokens: spent tokens of all thoughts."""

    budget: ThinkingBudget
    is_thinking: bool
    num_tokens: int = 0
    num_seen: int = 0

    @classmethod
    def of(cls, budget: ThinkingBudget | None) -> "BudgetedThought | None":
        return None if budget is None else cls(budget, budget.is_open)

    def end_if_spent(self, logits: torch.Tensor, row: LogitsRow) -> bool:
        """If the budget is spent, rule out all tokens except the one that ends the thinking; return whether the row was
        changed.

        logits: [V] fp32. If a grammar does not allow the end token here, for example within a multi-token character, a
        later row ends the thinking.
        """
        self._push(row.known_from(row.num_prompt + self.num_seen))
        ahead = dataclasses.replace(self)
        ahead._push(row.drafted)
        is_spent = ahead.is_thinking and ahead.num_tokens >= self.budget.max_tokens
        if not is_spent or logits[self.budget.end_id] == -torch.inf:
            return False
        logits.fill_(-torch.inf)
        logits[self.budget.end_id] = 0.0
        return True

    def _push(self, token_ids: abc.Iterable[int]) -> None:
        for token_id in token_ids:
            self.num_seen += 1
            if not self.is_thinking:
                self.is_thinking = token_id == self.budget.start_id
            elif token_id == self.budget.end_id:
                self.is_thinking = False
            else:
                self.num_tokens += 1
