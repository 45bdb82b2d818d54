"""ThinkingBudgets: rows that must end a thought because its budget is spent."""

from collections import abc
from dataclasses import dataclass

import torch

from engine.protocol import ThinkingBudget
from engine.sampling.rows import LogitsRow


@dataclass(slots=True)
class _Thought:
    """A sequence's thought after `num_seen` of its output tokens."""

    num_seen: int = 0
    num_tokens: int | None = None  # of the thought; None before it begins
    has_ended: bool = False

    def push(self, token_ids: abc.Iterable[int], budget: ThinkingBudget) -> None:
        for token_id in token_ids:
            self.num_seen += 1
            if self.num_tokens is not None:
                self.has_ended |= token_id == budget.end_id
                self.num_tokens += 1
            elif token_id == budget.start_id:
                self.num_tokens = 0


class ThinkingBudgets:
    """Follows the thoughts of sequences with a budget, until they are released."""

    def __init__(self) -> None:
        self._thoughts: dict[str, _Thought] = {}

    def release(self, sequence_id: str) -> None:
        self._thoughts.pop(sequence_id, None)

    def end_thought(self, logits: torch.Tensor, row: LogitsRow, budget: ThinkingBudget) -> bool:
        """Rule out all tokens but the mark that ends the thought, if the row's budget is spent; returns whether it is.

        logits: [V] fp32. Where a grammar rules the mark out, as within a character of several tokens, a later row ends
        the thought.
        """
        if not self._is_spent(row, budget) or logits[budget.end_id] == -torch.inf:
            return False
        logits.fill_(-torch.inf)
        logits[budget.end_id] = 0.0
        return True

    def _is_spent(self, row: LogitsRow, budget: ThinkingBudget) -> bool:
        thought = self._thoughts.get(row.sequence_id)
        if thought is None:
            thought = _Thought(num_tokens=0 if budget.start_id is None else None)
            self._thoughts[row.sequence_id] = thought
        thought.push(row.known_from(row.num_prompt + thought.num_seen), budget)
        ahead = _Thought(thought.num_seen, thought.num_tokens, thought.has_ended)
        ahead.push(row.drafted, budget)
        return ahead.num_tokens is not None and not ahead.has_ended and ahead.num_tokens >= budget.max_tokens
