"""Temperature and truncation: the distribution of a row of edited logits, and draws from it.

The order: temperature, top-n-sigma, top-k, typical, top-p, min-p, XTC. Temperature comes first as in vLLM and
transformers, and the limits in llama-server's order. Mirostat replaces all of them and is elsewhere, since it depends
on what was drawn.
"""

import torch

from engine.protocol import SamplingParams
from engine.sampling.draw import draw
from engine.sampling.rows import LogitsRow
from engine.sampling.top_n_sigma import apply_top_n_sigma
from engine.sampling.truncation import TruncationParams, truncate
from engine.sampling.typical import apply_typical
from engine.sampling.xtc import excludes_top_choices, without_top_choices
from models.kernels.cpu import sampling as native


def best_ids(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(values [L], ids [L]) of each row's largest logit; the value is NaN where any of the row is NaN."""
    library = native.sampling_library(logits)
    if library is not None:
        return native.best_ids(logits, library)
    values, ids = logits.max(dim=-1)
    return values, ids


def top1_probs(logits: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The softmax [L] of each row at its largest logit, given in `values` [L]; valid only where that is finite."""
    library = native.sampling_library(logits)
    if library is None:
        return (values - logits.logsumexp(dim=-1)).exp()
    return native.top1_probs(logits, values, library)


def draw_ids(logits: torch.Tensor, rows: list[LogitsRow], uniforms: list[float]) -> list[int]:
    """One token id a row, drawn at its temperature and limits. logits: [L, V] fp32, edited, and in place here, too;
    uniforms: [L]."""
    _narrow(logits, rows)
    library = native.sampling_library(logits)
    if library is None:
        return _draw_ids_by_torch(logits, rows, uniforms)
    draws = []
    excluding = []
    for index, (row, uniform) in enumerate(zip(rows, uniforms, strict=True)):
        p = row.sampling
        top_k = p.top_k if p.typical_p == 1.0 else 0  # applied already
        draws.append(native.Draw(p.temperature, top_k, p.top_p, p.min_p, uniform))
        if p.xtc is not None and excludes_top_choices(row):
            excluding.append(index)
    ids = native.draw_ids(logits, draws, library)
    if excluding:
        numbers = [uniforms[index] for index in excluding]
        for index, token_id in zip(
            excluding, _draw_ids_by_torch(logits[excluding], [rows[i] for i in excluding], numbers), strict=True
        ):
            ids[index] = token_id
    return ids


def _narrow(logits: torch.Tensor, rows: list[LogitsRow]) -> None:
    """The limits up to the last whose survivors need not be the likeliest tokens, in place."""
    apply_top_n_sigma(logits, rows)
    apply_typical(logits, rows)


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
    """The distributions that `draw_ids` draws from, over the whole vocabulary: [L, V] fp32. logits: as there."""
    _narrow(logits, rows)
    result = torch.zeros_like(logits)
    for indices, ids, weights in _weights(logits, rows):
        probs = (weights / weights.sum(dim=-1, keepdim=True)).to(result.dtype)
        result[indices] = probs if ids is None else torch.zeros_like(logits[indices]).scatter_(-1, ids, probs)
    return result


def _weights(logits: torch.Tensor, rows: list[LogitsRow]) -> list[tuple[list[int], torch.Tensor | None, torch.Tensor]]:
    """Rows with and without truncation: (row indices, token ids [l, C] or None for all, weights [l, C])."""
    device = logits.device
    params = [row.sampling for row in rows]
    temperature = torch.tensor([p.temperature for p in params], dtype=torch.float32, device=device)
    scaled = logits / temperature.unsqueeze(-1)
    untruncated = [index for index, p in enumerate(params) if not _is_truncated(p)]
    truncated = [index for index, p in enumerate(params) if _is_truncated(p)]
    groups: list[tuple[list[int], torch.Tensor | None, torch.Tensor]] = []
    if untruncated:
        groups.append((untruncated, None, (scaled[untruncated] - scaled[untruncated].amax(dim=-1, keepdim=True)).exp()))
    if truncated:
        limited = [params[index] for index in truncated]
        limits = TruncationParams(
            top_k=torch.tensor([p.top_k if p.typical_p == 1.0 else 0 for p in limited], device=device),
            top_p=torch.tensor([p.top_p for p in limited], dtype=torch.float64, device=device),
            min_p=torch.tensor([p.min_p for p in limited], dtype=torch.float64, device=device),
        )
        groups.append((truncated, *truncate(scaled[truncated], limits)))
    return [(indices, ids, _after_xtc(weights, [rows[index] for index in indices])) for indices, ids, weights in groups]


def _after_xtc(weights: torch.Tensor, rows: list[LogitsRow]) -> torch.Tensor:
    """The weights ([l, C]) without the top choices of those rows that lose them."""
    excluding, thresholds = [], []
    for index, row in enumerate(rows):
        xtc = row.sampling.xtc
        if xtc is not None and excludes_top_choices(row):
            excluding.append(index)
            thresholds.append(xtc.threshold)
    if excluding:
        numbers = torch.tensor(thresholds, dtype=torch.float64, device=weights.device)
        weights[excluding] = without_top_choices(weights[excluding], numbers)
    return weights


def _is_truncated(sampling: SamplingParams) -> bool:
    return sampling.top_k > 0 or sampling.top_p < 1.0 or sampling.min_p > 0.0
