"""Temperature and truncation: the distribution that a row of edited logits stands for, and draws from it."""

import torch

from engine.protocol import SamplingParams
from engine.sampling.draw import draw
from engine.sampling.rows import LogitsRow
from engine.sampling.truncation import TruncationParams, truncate
from models.kernels import sampling as native


def best_ids(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(values [L], ids [L]) of each row's largest logit; the value is NaN where any of the row is NaN."""
    library = native.sampling_library(logits)
    if library is not None:
        return native.best_ids(logits, library)
    values, ids = logits.max(dim=-1)
    return values, ids


def best_shares(logits: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The softmax [L] of each row at its largest logit, which `values` [L] holds; only where that is finite."""
    library = native.sampling_library(logits)
    if library is None:
        return (values - logits.logsumexp(dim=-1)).exp()
    return native.top1_probs(logits, values, library)


def draw_ids(logits: torch.Tensor, rows: list[LogitsRow], uniforms: list[float]) -> list[int]:
    """One token id a row, drawn at its temperature and limits. logits: [L, V] fp32, edited; uniforms: [L]."""
    library = native.sampling_library(logits)
    if library is None:
        return _draw_ids_by_torch(logits, rows, uniforms)
    draws = []
    for row, number in zip(rows, uniforms, strict=True):
        p = row.sequence.request.sampling
        draws.append(native.Draw(p.temperature, p.top_k, p.top_p, p.min_p, number))
    return native.draw_ids(logits, draws, library)


def _draw_ids_by_torch(logits: torch.Tensor, rows: list[LogitsRow], uniforms: list[float]) -> list[int]:
    numbers = torch.tensor(uniforms, dtype=torch.float64, device=logits.device)
    result = [0] * len(rows)
    for indices, ids, weights in _weights(logits, rows):
        chosen = draw(weights, numbers[indices])
        if ids is not None:
            chosen = ids.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
        for index, token_id in zip(indices, chosen.tolist(), strict=True):
            result[index] = token_id
    return result


def probabilities(logits: torch.Tensor, rows: list[LogitsRow]) -> torch.Tensor:
    """The distributions that `draw_ids` draws from, over the whole vocabulary: [L, V] fp32."""
    result = torch.zeros_like(logits)
    for indices, ids, weights in _weights(logits, rows):
        shares = (weights / weights.sum(dim=-1, keepdim=True)).to(result.dtype)
        result[indices] = shares if ids is None else torch.zeros_like(logits[indices]).scatter_(-1, ids, shares)
    return result


def _weights(logits: torch.Tensor, rows: list[LogitsRow]) -> list[tuple[list[int], torch.Tensor | None, torch.Tensor]]:
    """Groups of rows that are computed alike: (row indices, token ids [l, C] or None for all, weights [l, C])."""
    device = logits.device
    params = [row.sequence.request.sampling for row in rows]
    temperature = torch.tensor([p.temperature for p in params], dtype=torch.float32, device=device)
    scaled = logits / temperature.unsqueeze(-1)
    whole = [index for index, p in enumerate(params) if not _is_truncated(p)]
    cut = [index for index, p in enumerate(params) if _is_truncated(p)]
    groups: list[tuple[list[int], torch.Tensor | None, torch.Tensor]] = []
    if whole:
        groups.append((whole, None, (scaled[whole] - scaled[whole].amax(dim=-1, keepdim=True)).exp()))
    if cut:
        limits = TruncationParams(
            top_k=torch.tensor([params[index].top_k for index in cut], device=device),
            top_p=torch.tensor([params[index].top_p for index in cut], dtype=torch.float64, device=device),
            min_p=torch.tensor([params[index].min_p for index in cut], dtype=torch.float64, device=device),
        )
        groups.append((cut, *truncate(scaled[cut], limits)))
    return groups


def _is_truncated(sampling: SamplingParams) -> bool:
    return sampling.top_k > 0 or sampling.top_p < 1.0 or sampling.min_p > 0.0
