"""Choosing tokens from rows of logits (C++, src/rows): the largest logit, a draw within limits, masks."""

from array import array
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import torch

from models.kernels.cpu.library import KernelLibrary, kernel_library


class Draw(NamedTuple):
    """How a row's token is drawn. top_k 0, top_p 1 and min_p 0 are off; uniform: the row's random number in [0, 1)."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    uniform: float


def sampling_library(logits: torch.Tensor) -> KernelLibrary | None:
    """The library, if its functions support these logits; None: then torch's operators choose."""
    is_supported = logits.device.type == "cpu" and logits.dtype == torch.float32 and logits.stride(-1) == 1
    return kernel_library() if is_supported else None


def best_ids(logits: torch.Tensor, library: KernelLibrary) -> tuple[torch.Tensor, torch.Tensor]:
    """(values [L], ids [L] int64) of each row's largest logit; the value is NaN where any of the row is."""
    ids = torch.empty(len(logits), dtype=torch.int64)
    values = torch.empty(len(logits), dtype=torch.float32)
    library.best_ids(*_rows(logits), ids.data_ptr(), values.data_ptr())
    return values, ids


def top1_probs(logits: torch.Tensor, values: torch.Tensor, library: KernelLibrary) -> torch.Tensor:
    """The probability [L] of each row's largest logit, which is in `values` [L] fp32 and finite."""
    probs = torch.empty(len(logits), dtype=torch.float32)
    library.top1_probs(*_rows(logits), values.data_ptr(), probs.data_ptr())
    return probs


def draw_ids(logits: torch.Tensor, draws: Sequence[Draw], library: KernelLibrary) -> list[int]:
    """A token id for each row; the largest logit of each is finite."""
    ids = torch.empty(len(logits), dtype=torch.int64)
    limits = torch.frombuffer(array("d", chain.from_iterable(draws)), dtype=torch.float64)
    library.draw_ids(*_rows(logits), limits.data_ptr(), ids.data_ptr())
    result: list[int] = ids.tolist()
    return result


def mask_rows(logits: torch.Tensor, rows: Sequence[int], masks: torch.Tensor, library: KernelLibrary) -> None:
    """Set logits[rows[i], j] to -inf where bit j of masks[i] is 0. masks: [len(rows), W] int32, 32 columns a word."""
    indices = array("q", rows)
    address, _ = indices.buffer_info()
    stride, (_, num_columns) = logits.stride(0), logits.shape
    library.mask_rows(logits.data_ptr(), stride, num_columns, address, len(rows), masks.data_ptr(), masks.shape[1])


def _rows(logits: torch.Tensor) -> tuple[int, int, int, int]:
    return logits.data_ptr(), logits.stride(0), *logits.shape
