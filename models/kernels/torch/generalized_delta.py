"""The generalized delta rule (GeneralizedDeltaSpec) in torch, over rows of several sequences with states.

A sequence's rows are computed in chunks as products of matrices. With G_i the sum of log w up to row i of the chunk, a
number for each key channel, and S the state before it, the parts p_i that rows remove solve a triangular system:

    p_i + sum_(j<i) (c_i . exp(G_(i-1) - G_j) b_j) p_j  =
        (exp(G_(i-1)) c_i)^T S + sum_(j<i) (c_i . exp(G_(i-1) - G_j) k_j) v_j
    y_i = (exp(G_i) q_i)^T S + sum_(j<=i) (q_i . exp(G_i - G_j) k_j) v_j - (q_i . exp(G_i - G_j) b_j) p_j
    S after the chunk = exp(G_n) S + sum_j (exp(G_n - G_j) k_j) v_j^T - (exp(G_n - G_j) b_j) p_j^T

with b = a c. No log w is below -e^-0.5, so that c_i exp(-log w_i) is as exact as c_i.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

from models.architecture.recurrence import GeneralizedDeltaSpec
from models.batch import StateGroupBatch
from models.kernels.operands import GeneralizedDeltaRows, GeneralizedDeltaWeights
from models.kernels.torch.scan import ChunkedScan, compare_rows, scan_sequences, sums_after

MIN_LOG_DECAY = -math.exp(-0.5)
MIN_LENGTH = 1e-12  # of k_k in_k, which c is divided by


class UpdateRows(NamedTuple):
    """Inputs of the generalized delta rule in fp32, by row and head: [T, H, K] each. c has length 1, b is a c."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    c: torch.Tensor
    b: torch.Tensor
    log_decay: torch.Tensor


def run_generalized_delta(
    rows: GeneralizedDeltaRows,
    weights: GeneralizedDeltaWeights,
    state: torch.Tensor,
    group: StateGroupBatch,
    *,
    spec: GeneralizedDeltaSpec,
) -> torch.Tensor:
    """Run the generalized delta rule, and the norm and gate after it; RunGeneralizedDelta in ops.py has the details."""
    q, decay, k, v, rate, gate = (tensor.to(torch.float32) for tensor in rows[:6])
    if rows.first_rate is not None and rows.first_values is not None:
        v = torch.lerp(v, rows.first_values.to(torch.float32), torch.sigmoid(rows.first_rate.to(torch.float32)))
    rate = torch.sigmoid(rate)
    heads = (spec.num_heads, spec.head_dim)
    c = F.normalize((weights.k_k * k).unflatten(1, heads), dim=-1, eps=MIN_LENGTH)
    k = (k * (1 + weights.k_a * (rate - 1))).unflatten(1, heads)
    q, v, rate = (tensor.unflatten(1, heads) for tensor in (q, v, rate))
    log_decay = (MIN_LOG_DECAY * torch.sigmoid(decay)).unflatten(1, heads)
    y = generalized_delta(UpdateRows(q, k, v, c, rate * c, log_decay), state, group)
    normed = F.layer_norm(y, (spec.head_dim,), eps=weights.norm_eps).flatten(1) * weights.norm_weight
    own = (q * k * weights.r_k.view(heads)).sum(dim=-1, keepdim=True) * v
    return ((normed + weights.norm_bias + own.flatten(1)) * gate).to(rows.q.dtype)


def generalized_delta(rows: UpdateRows, state: torch.Tensor, group: StateGroupBatch) -> torch.Tensor:
    """Return y [T, H, K], before norm and gate. Reads `state` [blocks, H, K, K] at sources, writes it at targets."""
    return scan_sequences(ChunkedScan(_chunk, _single_rows), rows, state, group, torch.empty_like(rows.v))


def _chunk(rows: UpdateRows, before: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute one chunk. rows: [n, H, K]; before: the state [H, K, K]. Returns y [n, H, K] and the state after."""
    q, k, v, c, b, log_decay = (tensor.transpose(0, 1) for tensor in rows)
    total, to_end = log_decay.cumsum(dim=1), sums_after(log_decay).exp()
    undecayed = c * (-log_decay).exp()  # so that comparing decays it only up to the row before
    known = (total.exp() * undecayed) @ before + compare_rows(undecayed, k, log_decay).tril(-1) @ v
    system = compare_rows(undecayed, b, log_decay)  # its diagonal is taken as ones
    p = torch.linalg.solve_triangular(system, known, upper=False, unitriangular=True)
    y = (total.exp() * q) @ before + compare_rows(q, k, log_decay) @ v - compare_rows(q, b, log_decay) @ p
    added = (to_end * k).transpose(1, 2) @ v - (to_end * b).transpose(1, 2) @ p
    return y.transpose(0, 1), total[:, -1].exp().unsqueeze(2) * before + added


def _single_rows(rows: UpdateRows, before: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute a row of each of N sequences. before: the states [N, H, K, K]."""
    q, k, v, c, b, log_decay = rows
    p = c.unsqueeze(2) @ before
    after = log_decay.exp().unsqueeze(3) * before + k.unsqueeze(3) * v.unsqueeze(2) - b.unsqueeze(3) * p
    return (q.unsqueeze(2) @ after).squeeze(2), after
