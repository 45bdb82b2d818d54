"""The gated delta rule (GatedDeltaSpec) in torch, over the rows of several sequences that continue from a state.

A sequence's rows are computed in chunks as products of matrices (Yang et al. 2024). With G_i the sum of log a up to row
i of the chunk, a number or one for each key channel, and S the state before it, the corrections
u_i = b_i (v_i - k_i^T S'_i) solve a triangular system:

    u_i + b_i sum_(j<i) (k_i . exp(G_i - G_j) k_j) u_j  =  b_i (v_i - (exp(G_i) k_i)^T S)
    y_i = (exp(G_i) q_i)^T S + sum_(j<=i) (q_i . exp(G_i - G_j) k_j) u_j
    S after the chunk = exp(G_n) S + sum_j (exp(G_n - G_j) k_j) u_j^T
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from models.architecture.recurrence import GatedDeltaSpec
from models.batch import StateGroupBatch
from models.kernels.operands import DeltaGates, DeltaWeights
from models.kernels.torch.scan import ChunkedScan, compare_rows, scan_sequences, sums_after

_L2_NORM_EPS = 1e-6  # added to the squared length of a query or key


class DeltaRows(NamedTuple):
    """Inputs of the gated delta rule in fp32, by row and value head. k has length 1, q length K^-0.5."""

    q: torch.Tensor  # [T, H, K]
    k: torch.Tensor  # [T, H, K]
    v: torch.Tensor  # [T, H, V]
    log_decay: torch.Tensor  # [T, H, 1] or [T, H, K], log a
    beta: torch.Tensor  # [T, H], b


def run_gated_delta(
    qkv: torch.Tensor,
    gates: DeltaGates,
    weights: DeltaWeights,
    state: torch.Tensor,
    group: StateGroupBatch,
    *,
    spec: GatedDeltaSpec,
) -> torch.Tensor:
    """Run the gated delta rule, and the norm and gate after it; RunGatedDelta in ops.py has the details."""
    z, b, a = gates
    q, k, v = torch.split_with_sizes(qkv, [spec.key_size, spec.key_size, spec.value_size], dim=1)
    q, k = (_unit_heads(x, spec) for x in (q, k))
    shifted = (a.to(torch.float32) + weights.dt_bias).unflatten(1, (spec.num_value_heads, -1))
    rows = DeltaRows(
        q * spec.key_dim**-0.5,
        k,
        v.unflatten(1, (-1, spec.value_dim)),
        _log_decay(shifted, weights.A_log.exp().unsqueeze(1), spec.min_log_decay),
        spec.beta_scale * torch.sigmoid(b.to(torch.float32)),
    )
    y = F.rms_norm(gated_delta(rows, state, group), (spec.value_dim,), weights.norm_weight, weights.norm_eps)
    gate = torch.sigmoid if spec.has_sigmoid_gate else F.silu
    return (y.flatten(1) * gate(z.to(torch.float32))).to(z.dtype)


def _log_decay(shifted: torch.Tensor, rates: torch.Tensor, minimum: float | None) -> torch.Tensor:
    """Return log a. shifted: in_a + dt_bias, [T, H, 1 or K]; rates: exp(A_log), [H, 1]."""
    return -rates * F.softplus(shifted) if minimum is None else minimum * torch.sigmoid(rates * shifted)


def _unit_heads(x: torch.Tensor, spec: GatedDeltaSpec) -> torch.Tensor:
    """Scale queries or keys [T, key heads * K] to length 1, and repeat them for each value head: [T, H, K]."""
    x = x.unflatten(1, (-1, spec.key_dim))
    repeats = spec.num_value_heads // spec.num_key_heads
    x = x * torch.rsqrt(x.square().sum(dim=-1, keepdim=True) + _L2_NORM_EPS)
    return x.repeat(1, repeats, 1) if spec.tiles_key_heads else x.repeat_interleave(repeats, dim=1)


def gated_delta(rows: DeltaRows, state: torch.Tensor, group: StateGroupBatch) -> torch.Tensor:
    """Return y [T, H, V], before norm and gate. Reads `state` [blocks, H, K, V] at sources, writes it at targets."""
    return scan_sequences(ChunkedScan(_chunk, _single_rows), rows, state, group, torch.empty_like(rows.v))


def _chunk(rows: DeltaRows, before: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute one chunk. rows: [n, H, ...]; before: the state [H, K, V]. Returns y [n, H, V] and the state after."""
    q, k, v, log_decay, beta = (tensor.transpose(0, 1) for tensor in rows)
    from_start, to_end = log_decay.cumsum(dim=1).exp(), sums_after(log_decay).exp()  # [H, n, 1 or K]
    beta = beta.unsqueeze(2)
    system = beta * compare_rows(k, k, log_decay)  # its diagonal is taken as ones
    u = torch.linalg.solve_triangular(system, beta * (v - (from_start * k) @ before), upper=False, unitriangular=True)
    y = (from_start * q) @ before + compare_rows(q, k, log_decay) @ u
    after = from_start[:, -1].unsqueeze(2) * before + (to_end * k).transpose(1, 2) @ u
    return y.transpose(0, 1), after


def _single_rows(rows: DeltaRows, before: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute a row of each of N sequences. before: the states [N, H, K, V]."""
    q, k, v, log_decay, beta = rows
    before = before * log_decay.exp().unsqueeze(3)
    u = beta.unsqueeze(-1) * (v - (k.unsqueeze(2) @ before).squeeze(2))
    after = before + k.unsqueeze(3) * u.unsqueeze(2)
    return (q.unsqueeze(2) @ after).squeeze(2), after
