"""A state space with one decay per head (StateSpaceSpec) in torch, over rows of several sequences that continue from
a state.

A sequence's rows are computed in chunks as products of matrices (Dao and Gu 2024). With G_i the sum of log a up to row
i of the chunk, v_i = d_i x_i, and S the state before it:

    y_i = exp(G_i) C_i S + sum_(j<=i) exp(G_i - G_j) (C_i . B_j) v_j
    S after the chunk = exp(G_n) S + sum_j exp(G_n - G_j) B_j v_j^T
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from models.architecture.recurrence import GatePlace, StateSpaceSpec
from models.batch import StateGroupBatch
from models.kernels.operands import StateSpaceWeights
from models.kernels.torch.scan import ChunkedScan, decays, scan_sequences


class StateSpaceRows(NamedTuple):
    """Inputs of the recurrence in fp32, by row and head or group."""

    v: torch.Tensor  # [T, H, P], d x
    b: torch.Tensor  # [T, groups, N]
    c: torch.Tensor  # [T, groups, N]
    log_decay: torch.Tensor  # [T, H], log a


def run_state_space(
    xbc: torch.Tensor,
    z: torch.Tensor,
    steps: torch.Tensor | None,
    weights: StateSpaceWeights,
    state: torch.Tensor,
    group: StateGroupBatch,
    *,
    spec: StateSpaceSpec,
) -> torch.Tensor:
    """Run the recurrence, and the norm and gate after it; RunStateSpace in ops.py has the details."""
    inner, keys = spec.inner_size, spec.num_groups * spec.state_size
    x, b, c = torch.split_with_sizes(xbc, [inner, keys, keys], dim=1)
    x = x.unflatten(1, (spec.num_heads, spec.head_dim))
    b, c = (part.unflatten(1, (spec.num_groups, spec.state_size)) for part in (b, c))
    rates = -weights.A_log.exp()
    if steps is None or weights.dt_bias is None or weights.D is None:
        rows = StateSpaceRows(x, b, c, rates.expand(x.shape[:2]))
        return _gate_and_norm(state_space(rows, state, group).flatten(1), z, weights.norm_weight, spec)
    scale = 1.0 if spec.scales is None else spec.scales.step
    step = F.softplus(scale * steps.to(torch.float32) + weights.dt_bias).clamp(spec.min_step, spec.max_step)
    rows = StateSpaceRows(step.unsqueeze(2) * x, b, c, rates * step)
    y = state_space(rows, state, group) + weights.D.unsqueeze(1) * x
    return _gate_and_norm(y.flatten(1), z, weights.norm_weight, spec)


def state_space(rows: StateSpaceRows, state: torch.Tensor, group: StateGroupBatch) -> torch.Tensor:
    """Return y [T, H, P] without D x. Reads `state` [blocks, H, N, P] at sources, writes it at targets."""
    return scan_sequences(ChunkedScan(_chunk, _single_rows), rows, state, group, torch.empty_like(rows.v))


def _chunk(rows: StateSpaceRows, before: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute one chunk. rows: [n, ...]; before: the state [H, N, P]. Returns y [n, H, P] and the state after."""
    v, b, c, log_decay = (tensor.transpose(0, 1) for tensor in rows)
    shared_by = len(v) // len(b)  # heads of a group
    total = log_decay.cumsum(dim=1)  # G, [H, n]
    scores = (c @ b.transpose(1, 2)).repeat_interleave(shared_by, dim=0)  # [H, n, n]
    b, c = (part.repeat_interleave(shared_by, dim=0) for part in (b, c))
    from_start, to_end = total.exp().unsqueeze(2), (total[:, -1:] - total).exp().unsqueeze(2)  # decays, [H, n, 1]
    y = from_start * (c @ before) + (decays(total) * scores) @ v
    after = from_start[:, -1:] * before + (to_end * b).transpose(1, 2) @ v
    return y.transpose(0, 1), after


def _single_rows(rows: StateSpaceRows, before: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute a row of each of S sequences. before: the states [S, H, N, P]."""
    v, b, c, log_decay = rows
    b, c = (part.repeat_interleave(v.shape[1] // part.shape[1], dim=1) for part in (b, c))  # [S, H, N]
    after = before * log_decay.exp().view(*log_decay.shape, 1, 1) + b.unsqueeze(3) * v.unsqueeze(2)
    return (c.unsqueeze(2) @ after).squeeze(2), after


def _gate_and_norm(
    y: torch.Tensor, z: torch.Tensor, norm_weight: torch.Tensor | None, spec: StateSpaceSpec
) -> torch.Tensor:
    """Apply the norm over each group's or all channels, and the gate before or after it: [T, H * P] in z's dtype."""
    gate = (1.0 if spec.scales is None else spec.scales.z) * z.to(torch.float32)
    gate = gate.sigmoid() if spec.has_sigmoid_gate else F.silu(gate)
    if norm_weight is None:
        y = y * gate
    else:
        assert spec.norm is not None
        gates_first = spec.gate is GatePlace.BEFORE_NORM
        groups = (y * gate if gates_first else y).unflatten(1, (spec.num_norms, -1))
        y = F.rms_norm(groups, groups.shape[2:], eps=spec.norm.eps).flatten(1) * norm_weight
        y = y if gates_first else y * gate
    return (y if spec.scales is None else y * spec.scales.out).to(z.dtype)
