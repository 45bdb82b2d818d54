"""The gated delta rule (GatedDeltaSpec) over the rows of several sequences, each of which continues from a state.

A sequence's rows are computed in chunks as products of matrices (Yang et al. 2024). With G_i the sum of log a up to row
i of the chunk and S the state before it, the corrections u_i = b_i (v_i - k_i^T S'_i) solve a triangular system:

    u_i + b_i sum_(j<i) exp(G_i - G_j) (k_i . k_j) u_j  =  b_i (v_i - exp(G_i) k_i^T S)
    y_i = exp(G_i) q_i^T S + sum_(j<=i) exp(G_i - G_j) (q_i . k_j) u_j
    S after the chunk = exp(G_n) S + sum_j exp(G_n - G_j) k_j u_j^T
"""

from typing import NamedTuple

import torch

from models.batch import StateGroupBatch

_CHUNK = 64  # rows: the quadratic part of a chunk costs about what its products with the state do


class DeltaRows(NamedTuple):
    """All in fp32, and for each value head. q and k of length 1, q scaled."""

    q: torch.Tensor  # [T, H, K]
    k: torch.Tensor  # [T, H, K]
    v: torch.Tensor  # [T, H, V]
    log_decay: torch.Tensor  # [T, H], log a
    beta: torch.Tensor  # [T, H], b


def gated_delta(rows: DeltaRows, state: torch.Tensor, group: StateGroupBatch) -> torch.Tensor:
    """y: [T, H, V]. state: [blocks, H, K, V] fp32, read at the group's sources and written at its targets."""
    out = torch.empty_like(rows.v)
    singles: list[tuple[int, int, int]] = []  # (row, source, target)
    end = 0
    for length, source in zip(group.query_lens, group.source_blocks, strict=True):
        start, end = end, end + length
        if length == 1:
            singles.append((start, source, group.target_blocks[start]))
        else:
            _compute_sequence(rows, range(start, end), source, state, group.target_blocks, out)
    if singles:
        _single_rows(rows, singles, state, out)
    return out


def _compute_sequence(
    rows: DeltaRows, indices: range, source: int, state: torch.Tensor, targets: tuple[int, ...], out: torch.Tensor
) -> None:
    """The rows of one sequence, in chunks that also end where a state is stored."""
    now = state[source].clone() if source >= 0 else torch.zeros_like(state[0])
    start = indices.start
    while start < indices.stop:
        most = min(start + _CHUNK, indices.stop)
        end = next((row + 1 for row in range(start, most) if targets[row] >= 0), most)
        out[start:end], now = _chunk(DeltaRows(*(tensor[start:end].transpose(0, 1) for tensor in rows)), now)
        if targets[end - 1] >= 0:
            state[targets[end - 1]] = now
        start = end


def _chunk(rows: DeltaRows, before: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """rows: [H, n, ...]. before: the state [H, K, V]. Returns y [n, H, V] and the state after."""
    q, k, v, log_decay, beta = rows
    total = log_decay.cumsum(dim=1)  # G, [H, n]
    decay = (total.unsqueeze(2) - total.unsqueeze(1)).tril().exp().tril()  # the inner tril: exp must not overflow above
    from_start, to_end = total.exp().unsqueeze(2), (total[:, -1:] - total).exp().unsqueeze(2)  # decays, [H, n, 1]
    beta = beta.unsqueeze(2)
    system = beta * decay * (k @ k.transpose(1, 2))  # its diagonal is taken as ones
    u = torch.linalg.solve_triangular(system, beta * (v - from_start * (k @ before)), upper=False, unitriangular=True)
    y = from_start * (q @ before) + (decay * (q @ k.transpose(1, 2))) @ u
    after = from_start[:, -1:] * before + (to_end * k).transpose(1, 2) @ u
    return y.transpose(0, 1), after


def _single_rows(rows: DeltaRows, singles: list[tuple[int, int, int]], state: torch.Tensor, out: torch.Tensor) -> None:
    """Single rows of many sequences, together."""
    at, sources, targets = torch.tensor(singles, device=state.device).unbind(1)
    q, k, v, log_decay, beta = (tensor[at] for tensor in rows)  # [N, H, ...]
    before = state[sources.clamp_min(0)] * log_decay.exp().view(*log_decay.shape, 1, 1)
    before = torch.where(sources.view(-1, 1, 1, 1) >= 0, before, torch.zeros_like(before))
    u = beta.unsqueeze(-1) * (v - (k.unsqueeze(2) @ before).squeeze(2))
    after = before + k.unsqueeze(3) * u.unsqueeze(2)
    out[at] = (q.unsqueeze(2) @ after).squeeze(2)
    is_stored = targets >= 0
    state[targets[is_stored]] = after[is_stored]
