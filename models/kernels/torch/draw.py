"""Sampling from rows of logits by inverting the cumulative distribution, with temperature, top-k, top-p and min-p."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from models.kernels.operands import Draw
from models.kernels.torch.truncation import TruncationParams, truncate


class WeightedRows(NamedTuple):
    """Rows of a batch to sample from: their indices, candidate tokens, and unnormalized weights of the candidates."""

    rows: list[int]  # [l]
    ids: torch.Tensor | None  # [l, C] token ids of the candidates; None: the whole vocabulary
    weights: torch.Tensor  # [l, C]


def draw(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Return the index that each row's uniform number selects, by inverting the cumulative distribution.

    weights: [L, C], non-negative, any scale, in an order that does not depend on the batch. uniforms: [L] in [0, 1).
    Returns [L] int64. fp64, because over 150,000 entries the rounding of an fp32 sum would move probability mass.
    """
    cumulative = weights.to(torch.float64).cumsum(dim=-1)
    targets = uniforms.to(torch.float64) * cumulative[:, -1]
    index = torch.searchsorted(cumulative, targets.unsqueeze(-1), right=True).squeeze(-1)
    # A target that rounds up to the total would be beyond the end: take the last entry that has weight.
    last = (cumulative < cumulative[:, -1:]).sum(dim=-1)
    return torch.minimum(index, last)


def draw_from(groups: Sequence[WeightedRows], uniforms: Sequence[float]) -> list[int]:
    """Sample a token id for each row of all groups; return them in the order of `uniforms`."""
    result = [0] * len(uniforms)
    for group in groups:
        numbers = [uniforms[row] for row in group.rows]
        chosen = draw(group.weights, torch.tensor(numbers, dtype=torch.float64, device=group.weights.device))
        if group.ids is not None:
            chosen = group.ids.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
        for row, token_id in zip(group.rows, chosen.tolist(), strict=True):
            result[row] = token_id
    return result


def weighted_rows(logits: torch.Tensor, draws: Sequence[Draw]) -> list[WeightedRows]:
    """Return each row's sampling weights, with temperature applied, in up to two groups.

    The groups are the rows without and the rows with truncation (top-k, top-p or min-p).
    """
    device = logits.device
    temperature = torch.tensor([each.temperature for each in draws], dtype=torch.float32, device=device)
    scaled = logits / temperature.unsqueeze(-1)
    truncated = [row for row, each in enumerate(draws) if _is_truncated(each)]
    untruncated = [row for row, each in enumerate(draws) if not _is_truncated(each)]
    groups: list[WeightedRows] = []
    if untruncated:
        rows = scaled[untruncated]
        groups.append(WeightedRows(untruncated, None, (rows - rows.amax(dim=-1, keepdim=True)).exp()))
    if truncated:
        limited = [draws[row] for row in truncated]
        limits = TruncationParams(
            top_k=torch.tensor([each.top_k for each in limited], device=device),
            top_p=torch.tensor([each.top_p for each in limited], dtype=torch.float64, device=device),
            min_p=torch.tensor([each.min_p for each in limited], dtype=torch.float64, device=device),
        )
        groups.append(WeightedRows(truncated, *truncate(scaled[truncated], limits)))
    return groups


def _is_truncated(limits: Draw) -> bool:
    return limits.top_k > 0 or limits.top_p < 1.0 or limits.min_p > 0.0
