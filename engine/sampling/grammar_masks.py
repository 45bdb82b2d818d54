"""GrammarMasks: masks the tokens that a grammar does not allow, in each row of a step.

A greedy row whose best token is allowed needs no mask, which would not change its argmax. The masks of other rows are
computed while the model runs.
"""

import time
from collections import abc

import numpy as np
import torch

from engine.sampling.mask_writer import MaskWriter
from engine.sampling.masks_ahead import NO_MASKS, MasksAhead, PendingMasks
from engine.sampling.rows import LogitsRow
from engine.scheduling.grammar import OutputGrammar
from models.kernels.torch.logits import LogitOperations


class GrammarMasks:
    """Applies grammar masks to logits. Buffers grow to the largest step; a thread starts with the first mask."""

    def __init__(self, ops: LogitOperations) -> None:
        self._ops = ops
        num_threads = torch.get_num_threads()
        self._writer = MaskWriter(num_threads)
        self._ahead = MasksAhead(MaskWriter(num_threads))
        self._num_rows = 0
        self._seconds = 0.0

    def start(self, rows: list[LogitsRow], vocab_size: int, *, needs_all: bool = False) -> PendingMasks:
        """Start computing the masks that `apply` will need for these rows. vocab_size: the logits' width. needs_all:
        whether `take` will need the masks of all rows with a grammar."""
        needed = [
            index
            for index, row in enumerate(rows)
            if row.grammar is not None and (needs_all or _needs_mask(row, row.grammar))
        ]
        return self._ahead.start(rows, needed, vocab_size)

    def take(self, ahead: PendingMasks) -> torch.Tensor | None:
        """Wait for the masks from `start`, and count them: [n, 1 + W] int32, the row's index before its mask; None if
        there are none. The tensor is the caller's."""
        start_s = time.perf_counter()
        mask_of_row, masks = ahead.take()
        if masks is None:
            return None
        self._num_rows += len(masks)
        self._seconds += time.perf_counter() - start_s
        indices = np.fromiter(mask_of_row, dtype=np.int32, count=len(masks))
        return torch.from_numpy(np.column_stack((indices, masks.view(np.int32))))

    def apply(
        self,
        logits: torch.Tensor,
        rows: list[LogitsRow],
        best_ids: abc.Sequence[int] | None = None,
        ahead: PendingMasks = NO_MASKS,
    ) -> list[int]:
        """Set the logits ([L, V] fp32) of disallowed tokens to -inf; return the indices of the masked rows.

        best_ids: [L], the argmax of each row; rows that only need an allowed argmax are not masked. ahead: the masks
        from `start` for these rows.
        """
        constrained = [index for index, row in enumerate(rows) if row.grammar is not None]
        if not constrained:
            return []
        start_s = time.perf_counter()
        mask_of_row, ready = ahead.take()
        known = [index for index in constrained if index in mask_of_row]
        others = [index for index in constrained if index not in mask_of_row]
        if best_ids is not None:
            others = [index for index in others if not _is_best_matching(rows[index], best_ids[index])]
        batches: list[tuple[list[int], np.ndarray]] = []
        if known and ready is not None:
            batches.append((known, ready[[mask_of_row[index] for index in known]]))
        if others:
            batches.append((others, self._writer.masks([rows[index] for index in others], logits.shape[1])))
        self._num_rows += len(known) + len(others)
        self._seconds += time.perf_counter() - start_s
        for indices, masks in batches:
            self._ops.mask_rows(logits, indices, torch.from_numpy(masks.view(np.int32)))
        return sorted([*known, *others])

    def take_tally(self) -> tuple[int, float]:
        """Return (masked rows, seconds that steps waited for masks) since the last call."""
        tally = self._num_rows, self._seconds
        self._num_rows, self._seconds = 0, 0.0
        return tally


def _needs_mask(row: LogitsRow, grammar: OutputGrammar) -> bool:
    """Return whether to compute the row's mask in advance: not for a greedy row, whose argmax may be allowed, nor for a
    single allowed token, whose mask is cheap."""
    return not row.takes_best and (bool(row.num_drafted) or grammar.forced_next is None)


def _is_best_matching(row: LogitsRow, best_id: int) -> bool:
    """Return whether the row takes `best_id`, its argmax, and the grammar allows it, so that no mask is needed."""
    if not row.takes_best:
        return False
    grammar = row.grammar
    assert grammar is not None
    if not row.num_drafted:
        return grammar.can_follow(best_id)
    with grammar.following(row.drafted) as matches:
        return matches and grammar.can_follow(best_id)
