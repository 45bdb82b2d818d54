"""LogitEditor: edits logits before sampling. A row only goes through the steps that its request uses."""

from collections import abc

import torch

from engine.sampling.grammar_masks import GrammarMasks
from engine.sampling.masks_ahead import NO_MASKS, PendingMasks
from engine.sampling.rows import LogitsRow
from engine.sampling.steps.registry import LogitStep, logit_steps
from engine.sampling.steps.thinking import BudgetedThought
from models.kernels.torch.logits import LogitOperations


class LogitEditor:
    """Applies grammar masks, thinking budgets and the logit steps. Keeps each sequence's state until `release`."""

    def __init__(self, eos_token_ids: list[int], ops: LogitOperations) -> None:
        self.masks = GrammarMasks(ops)
        self._eos_token_ids = eos_token_ids
        self._edits: dict[str, tuple[BudgetedThought | None, tuple[LogitStep, ...]]] = {}  # by sequence

    def release(self, sequence_id: str) -> None:
        self._edits.pop(sequence_id, None)

    def edit(
        self,
        logits: torch.Tensor,
        rows: list[LogitsRow],
        best_ids: abc.Sequence[int] | None = None,
        masks: PendingMasks = NO_MASKS,
    ) -> list[int]:
        """Edit `logits` ([L, V] fp32) in place; return the indices of the changed rows.

        best_ids: [L], the argmax of each row, to skip masks of greedy rows where it is allowed; None masks every row
        with a grammar. masks: from `GrammarMasks.start` with the same rows.
        """
        masked = self.masks.apply(logits, rows, best_ids, masks)
        edited = []
        for index, row in enumerate(rows):
            edits = self._edits.get(row.sequence_id)
            if edits is None:
                edits = BudgetedThought.of(row.thinking), logit_steps(row, logits[index], self._eos_token_ids)
                self._edits[row.sequence_id] = edits
            thought, steps = edits
            if thought is not None and thought.end_if_spent(logits[index], row):
                edited.append(index)  # no other step can change a row with one token left
            elif steps and sum([step.apply(logits[index], row) for step in steps]):  # all of them, in their order
                edited.append(index)
        return sorted({*masked, *edited}) if masked else edited
