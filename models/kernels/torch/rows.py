"""Operations on whole rows and on heads in torch: residual sums, gates, copies, products with a matrix per head."""

import torch

from models.kernels.row_input import Prologue


def join_rows(
    x: torch.Tensor,
    y: torch.Tensor,
    norm: Prologue,
    *,
    skip: float = 1.0,
    scale: float = 1.0,
    norms_sum: bool = False,
) -> torch.Tensor:
    """Return skip * x + scale * norm(y), or norm(skip * x + scale * y) with `norms_sum`: [T, K]."""
    if norms_sum:
        return norm(torch.add(y if scale == 1.0 else y * scale, x, alpha=skip))
    return torch.add(x if skip == 1.0 else x * skip, norm(y), alpha=scale)


def prepare_rows(x: torch.Tensor, prologue: Prologue) -> torch.Tensor:
    """Return what `prologue` makes of x, in fp32."""
    return prologue(x.to(torch.float32))


def gate_rows(x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    """Return x [T, K] times sigmoid(gate); each gate is for K / G neighboring columns."""
    return (x.unflatten(1, (gate.shape[1], -1)) * torch.sigmoid(gate).unsqueeze(2)).flatten(1)


def sparse_gates(x: torch.Tensor, deviations: float) -> torch.Tensor:
    """Return rows [gate | up] with max(gate - cut, 0) as the gate; the cut is `deviations` above the gates' mean."""
    gate, up = x.to(torch.float32).chunk(2, dim=-1)
    variance, mean = torch.var_mean(gate, dim=-1, correction=0, keepdim=True)
    return torch.cat((torch.relu(gate - (mean + deviations * variance.sqrt())), up), dim=-1).to(x.dtype)


def bound_rows(x: torch.Tensor, limit: float) -> torch.Tensor:
    """Return x bounded to +-limit."""
    return x.clamp(-limit, limit)


def copy_heads(x: torch.Tensor, out: torch.Tensor) -> None:
    """Copy x to out, [T, H, K] each."""
    out.copy_(x)


def multiply_heads(weight: torch.Tensor, x: torch.Tensor, out: torch.Tensor) -> None:
    """Write W[h] x[t, h] to out [T, H, out]. weight: [H, out, in]; x: [T, H, in]."""
    out.copy_(torch.bmm(x.transpose(0, 1), weight.transpose(1, 2)).transpose(0, 1))
