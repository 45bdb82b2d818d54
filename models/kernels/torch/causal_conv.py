"""Causal depthwise convolution over the rows of several sequences, each of which continues from a state."""

import torch
import torch.nn.functional as F

from models.batch import StateGroupBatch
from models.kernels.torch.scan import indices_of, sequences_of_rows


def convolve(
    rows: torch.Tensor,
    weight: torch.Tensor,
    state: torch.Tensor,
    group: StateGroupBatch,
    *,
    bias: torch.Tensor | None = None,
    gates: tuple[torch.Tensor, torch.Tensor] | None = None,
    has_silu: bool = False,
    out_dtype: torch.dtype,
) -> torch.Tensor:
    """Run a causal depthwise convolution, continuing each sequence from its state. Convolve in ops.py has details."""
    before, after = gates or (None, None)
    if before is not None:
        rows = before * rows
    size = len(weight)
    extended, ends = prepend_states(rows, state, group)
    products = [extended[ends - (size - 1) + j].to(torch.float32) * weight[j] for j in range(size)]
    y = torch.stack(products).sum(dim=0)
    if bias is not None:
        y = y + bias
    store_inputs(extended, ends, state, group)
    y = (F.silu(y) if has_silu else y).to(out_dtype)
    return y if after is None else y * after


def prepend_states(
    rows: torch.Tensor, state: torch.Tensor, group: StateGroupBatch
) -> tuple[torch.Tensor, torch.Tensor]:
    """Insert before each sequence's rows the K - 1 last inputs from its state, or zeros for a new sequence.

    Returns the extended rows [T + S * (K - 1), C], and the indices [T] of the original rows in them.
    """
    width = state.shape[1]
    sequences = torch.arange(len(group.sources), device=rows.device)
    indices = torch.arange(len(rows), device=rows.device) + (sequences_of_rows(group) + 1) * width
    extended = rows.new_empty(len(rows) + len(sequences) * width, rows.shape[1])
    extended[indices] = rows
    starts = group.cu_seqlens[:-1].long() + sequences * width
    before = state[group.sources.long().clamp_min(0)]
    before = torch.where(group.sources.view(-1, 1, 1) >= 0, before, torch.zeros_like(before))
    extended[starts.unsqueeze(1) + torch.arange(width, device=rows.device)] = before
    return extended, indices


def store_inputs(extended: torch.Tensor, ends: torch.Tensor, state: torch.Tensor, group: StateGroupBatch) -> None:
    """Write the K - 1 last inputs after each row that has a target. extended, ends: of `prepend_states`."""
    num_written = sum(block >= 0 for block in group.target_blocks)
    if num_written:
        rows = indices_of(group.targets >= 0, num_written)
        window = torch.arange(1 - state.shape[1], 1, device=extended.device)
        state[group.targets[rows].long()] = extended[ends[rows].unsqueeze(1) + window]
