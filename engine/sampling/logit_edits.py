"""LogitEditor: changes logits before tokens are chosen. A row enters only the steps that its request uses."""

from collections import abc

import torch

from engine.sampling.grammar_masks import GrammarMasks
from engine.sampling.masks_ahead import NO_MASKS, PendingMasks
from engine.sampling.rows import LogitsRow
from engine.sampling.steps.registry import LogitStep, logit_steps
from engine.sampling.steps.thinking import ThinkingBudgets
from models.kernels.torch.logits import LogitOperations


class LogitEditor:
    """Holds what the steps know of sequences until they are released."""

    def __init__(self, eos_token_ids: list[int], ops: LogitOperations) -> None:
        self.masks = GrammarMasks(ops)
        self._steps = logit_steps(eos_token_ids)
        self._thinking = ThinkingBudgets()
        self._used: dict[str, tuple[LogitStep, ...]] = {}  # steps that each sequence's request uses

    def release(self, sequence_id: str) -> None:
        self._thinking.release(sequence_id)
        for step in self._used.pop(sequence_id, ()):
            step.release(sequence_id)

    def edit(
        self,
        logits: torch.Tensor,
        rows: list[LogitsRow],
        best_ids: abc.Sequence[int] | None = None,
        masks: PendingMasks = NO_MASKS,
    ) -> list[int]:
        """Edit `logits` ([L, V] fp32) in place; returns the indices of the rows that changed.

        best_ids, masks: see GrammarMasks; without best_ids every row with a grammar is masked.
        """
        masked = self.masks.apply(logits, rows, best_ids, masks)
        edited = self._edit_single(logits, rows)
        return sorted({*masked, *edited}) if masked else edited

    def _edit_single(self, logits: torch.Tensor, rows: list[LogitsRow]) -> list[int]:
        edited = []
        for index, row in enumerate(rows):
            used = self._used.get(row.sequence_id)
            if used is None:
                used = tuple(step for step in self._steps if step.is_used(row.sampling))
                self._used[row.sequence_id] = used
            if row.thinking is not None and self._thinking.end_thought(logits[index], row, row.thinking):
                edited.append(index)  # no other step can change a row with one token left
            elif used and sum([step.apply(logits[index], row) for step in used]):  # all of them, in their order
                edited.append(index)
        return edited
