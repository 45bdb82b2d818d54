"""Choosing tokens from rows of logits (C++, src/rows): the largest logit, a draw within limits, masks."""

from array import array
from collections.abc import Sequence
from itertools import chain

import torch

from models.kernels.cpu.library import KernelLibrary
from models.kernels.operands import Draw
from models.kernels.torch.logits import LogitOperations


class CpuLogitOperations(LogitOperations):
    """Operations on logits in memory of the CPU."""

    def __init__(self, library: KernelLibrary) -> None:
        self._library = library

    def best_ids(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.empty(len(logits), dtype=torch.int64)
        values = torch.empty(len(logits), dtype=torch.float32)
        self._library.best_ids(*_rows(logits), ids.data_ptr(), values.data_ptr())
        return values, ids

    def top1_probs(self, logits: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        probs = torch.empty(len(logits), dtype=torch.float32)
        self._library.top1_probs(*_rows(logits), values.data_ptr(), probs.data_ptr())
        return probs

    def draw_ids(self, logits: torch.Tensor, draws: Sequence[Draw]) -> list[int]:
        ids = torch.empty(len(logits), dtype=torch.int64)
        limits = torch.frombuffer(array("d", chain.from_iterable(draws)), dtype=torch.float64)
        self._library.draw_ids(*_rows(logits), limits.data_ptr(), ids.data_ptr())
        result: list[int] = ids.tolist()
        return result

    def mask_rows(self, logits: torch.Tensor, rows: Sequence[int], masks: torch.Tensor) -> None:
        indices = array("q", rows)
        address, _ = indices.buffer_info()
        stride, (_, num_columns) = logits.stride(0), logits.shape
        masks_address, num_words = masks.data_ptr(), masks.shape[1]
        self._library.mask_rows(logits.data_ptr(), stride, num_columns, address, len(rows), masks_address, num_words)


def _rows(logits: torch.Tensor) -> tuple[int, int, int, int]:
    """Return the address, stride and shape of the logits."""
    assert logits.dtype == torch.float32
    assert logits.stride(1) == 1
    return logits.data_ptr(), logits.stride(0), *logits.shape
