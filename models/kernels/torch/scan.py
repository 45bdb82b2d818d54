"""scan_sequences: runs a recurrence over the rows of several sequences, which continue from states and store states."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch

from models.batch import StateGroupBatch

_CHUNK = 64  # rows: the quadratic part of a chunk costs about what its products with the state do
_BLOCK = 16  # rows among which decays by channel are compared one by one

Rows = TypeVar("Rows", bound=tuple[torch.Tensor, ...])  # a NamedTuple of tensors [T, ...]


class ChunkedScan(NamedTuple):
    """A recurrence's functions for one chunk of a sequence, and for single rows of N sequences.

    chunk: (rows of the chunk, state before) -> (y [n, ...], state after). single: (rows [N, ...], states [N, ...]
    before) -> (y [N, ...], states after).
    """

    chunk: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    single: Callable[..., tuple[torch.Tensor, torch.Tensor]]


def scan_sequences(
    recurrence: ChunkedScan, rows: Rows, state: torch.Tensor, group: StateGroupBatch, out: torch.Tensor
) -> torch.Tensor:
    """Write y of all rows to `out` [T, ...] and return it. Reads `state` [blocks, ...] at sources, writes targets."""
    singles: list[tuple[int, int, int]] = []  # (row, source, target)
    end = 0
    for length, source in zip(group.query_lens, group.source_blocks, strict=True):
        start, end = end, end + length
        if length == 1:
            singles.append((start, source, group.target_blocks[start]))
        else:
            _scan_sequence(recurrence, rows, range(start, end), source, state, group.target_blocks, out)
    if singles:
        _scan_singles(recurrence, rows, singles, state, out)
    return out


def decays(total: torch.Tensor) -> torch.Tensor:
    """Return exp(G_i - G_j) for j <= i, else 0: [H, n, n]. total: G, the sum of log decays up to each row, [H, n]."""
    # The inner tril: exp must not overflow above the diagonal.
    return (total.unsqueeze(2) - total.unsqueeze(1)).tril().exp().tril()


def compare_rows(x: torch.Tensor, k: torch.Tensor, log_decay: torch.Tensor) -> torch.Tensor:
    """Return x_i . exp(G_i - G_j) k_j for j <= i, else 0: [H, n, n]. x, k: [H, n, K]; log_decay: [H, n, 1 or K].

    No exponent is above 0, so that nothing overflows.
    """
    if log_decay.shape[2] == 1:
        return decays(log_decay.squeeze(2).cumsum(dim=1)) * (x @ k.transpose(1, 2))
    products = x.new_zeros(len(x), x.shape[1], x.shape[1])
    for start in range(0, x.shape[1], _BLOCK):
        block = slice(start, start + _BLOCK)
        g = log_decay[:, block].cumsum(dim=1)
        earlier = (sums_after(log_decay[:, :start]) + g[:, :1]).exp() * k[:, :start]
        products[:, block, :start] = ((g - g[:, :1]).exp() * x[:, block]) @ earlier.transpose(1, 2)
        among = (g.unsqueeze(2) - g.unsqueeze(1)).clamp(max=0.0).exp()  # [H, rows, rows, K]
        products[:, block, block] = torch.einsum("hik,hijk,hjk->hij", x[:, block], among, k[:, block]).tril()
    return products


def sums_after(log_decay: torch.Tensor) -> torch.Tensor:
    """Return the sum of the rows after each one: [H, n, ...], like log_decay."""
    shifted = torch.cat((log_decay[:, 1:], torch.zeros_like(log_decay[:, :1])), dim=1)
    return shifted.flip(1).cumsum(dim=1).flip(1)


def _scan_sequence(
    recurrence: ChunkedScan,
    rows: Rows,
    indices: range,
    source: int,
    state: torch.Tensor,
    targets: tuple[int, ...],
    out: torch.Tensor,
) -> None:
    """Compute the rows of one sequence, in chunks that also end where a state is stored."""
    now = state[source].clone() if source >= 0 else torch.zeros_like(state[0])
    start = indices.start
    while start < indices.stop:
        most = min(start + _CHUNK, indices.stop)
        end = next((row + 1 for row in range(start, most) if targets[row] >= 0), most)
        out[start:end], now = recurrence.chunk(type(rows)(*(tensor[start:end] for tensor in rows)), now)
        if targets[end - 1] >= 0:
            state[targets[end - 1]] = now
        start = end


def _scan_singles(
    recurrence: ChunkedScan,
    rows: Rows,
    singles: list[tuple[int, int, int]],
    state: torch.Tensor,
    out: torch.Tensor,
) -> None:
    """Compute the sequences with a single row together. singles: (row, source block, target block); -1 for no block."""
    at, sources, targets = torch.tensor(singles, device=state.device).unbind(1)
    before = state[sources.clamp_min(0)]
    is_new = sources.view(-1, *(1,) * (state.dim() - 1)) < 0
    out[at], after = recurrence.single(
        type(rows)(*(tensor[at] for tensor in rows)), torch.where(is_new, torch.zeros_like(before), before)
    )
    is_stored = targets >= 0
    state[targets[is_stored]] = after[is_stored]
