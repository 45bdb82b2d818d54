"""scan_sequences: runs a recurrence over the rows of several sequences, which continue from states and store states."""

from collections.abc import Callable, Sequence
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
    single_targets: list[int] = []
    end = 0
    for length, source in zip(group.query_lens, group.source_blocks, strict=True):
        start, end = end, end + length
        if length == 1:
            single_targets.append(group.target_blocks[start])
        else:
            _scan_sequence(recurrence, rows, range(start, end), source, state, group.target_blocks, out)
    if single_targets:
        _scan_singles(recurrence, rows, single_targets, state, group, out)
    return out


def sequences_of_rows(group: StateGroupBatch) -> torch.Tensor:
    """Return the index of each row's sequence, [T] int64, without waiting for the device."""
    sequences = torch.arange(len(group.query_lens), device=group.sources.device)
    return sequences.repeat_interleave(group.cu_seqlens.diff(), output_size=len(group.target_blocks))


def indices_of(mask: torch.Tensor, count: int) -> torch.Tensor:
    """Return the indices [count] int64 of the true elements of a mask, without waiting for the device.

    count: how many there are, which the host knows.
    """
    return mask.logical_not().to(torch.uint8).argsort(stable=True)[:count]


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
    target_blocks: Sequence[int],
    state: torch.Tensor,
    group: StateGroupBatch,
    out: torch.Tensor,
) -> None:
    """Compute the sequences with a single row together. target_blocks: theirs, -1 for no block."""
    singles = indices_of(group.cu_seqlens.diff() == 1, len(target_blocks))
    at, sources = group.cu_seqlens[singles].long(), group.sources[singles].long()
    targets = group.targets[at].long()
    before = state[sources.clamp_min(0)]
    is_new = sources.view(-1, *(1,) * (state.dim() - 1)) < 0
    out[at], after = recurrence.single(
        type(rows)(*(tensor[at] for tensor in rows)), torch.where(is_new, torch.zeros_like(before), before)
    )
    stored = indices_of(targets >= 0, sum(block >= 0 for block in target_blocks))
    state[targets[stored]] = after[stored]
