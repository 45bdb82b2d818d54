"""The sampling distribution of each row of edited logits (temperature and truncation), and draws from it.

Order: temperature, top-n-sigma, top-k, typical, top-p, min-p, XTC. Temperature comes first as in vLLM and transformers;
the truncations follow llama-server's order. Mirostat replaces all of them; it is a separate step, since it depends on
the tokens drawn before.
"""

import torch

from engine.sampling.rows import LogitsRow
from engine.sampling.steps.top_n_sigma import apply_top_n_sigma
from engine.sampling.steps.typical import apply_typical
from engine.sampling.steps.xtc import excludes_top_choices, without_top_choices
from models.kernels.operands import Draw
from models.kernels.torch.draw import WeightedRows, draw_from, weighted_rows
from models.kernels.torch.logits import LogitOperations


def draw_ids(ops: LogitOperations, logits: torch.Tensor, rows: list[LogitsRow], uniforms: list[float]) -> list[int]:
    """Draw one token id per row, after temperature and truncation.

    logits: [L, V] fp32, edited; modified in place. uniforms: [L], a random number per row.
    """
    _narrow(logits, rows)
    draws = []
    excluding = []
    for index, (row, uniform) in enumerate(zip(rows, uniforms, strict=True)):
        p = row.sampling
        top_k = p.top_k if p.typical_p == 1.0 else 0  # typical has applied it
        draws.append(Draw(p.temperature, top_k, p.top_p, p.min_p, uniform))
        if p.xtc is not None and excludes_top_choices(row):
            excluding.append(index)
    ids = ops.draw_ids(logits, draws)
    if excluding:
        groups = _weights(logits[excluding], [rows[i] for i in excluding], [draws[i] for i in excluding])
        for index, token_id in zip(excluding, draw_from(groups, [uniforms[i] for i in excluding]), strict=True):
            ids[index] = token_id
    return ids


def _narrow(logits: torch.Tensor, rows: list[LogitsRow]) -> None:
    """Apply top-n-sigma and typical sampling in place; other truncations, such as top-k, are part of the draw."""
    apply_top_n_sigma(logits, rows)
    apply_typical(logits, rows)


def probabilities(logits: torch.Tensor, rows: list[LogitsRow]) -> torch.Tensor:
    """Return the distributions that `draw_ids` samples from: [L, V] fp32. logits: edited, modified in place."""
    _narrow(logits, rows)
    result = torch.zeros_like(logits)
    params = [row.sampling for row in rows]
    draws = [Draw(p.temperature, p.top_k if p.typical_p == 1.0 else 0, p.top_p, p.min_p, 0.0) for p in params]
    for indices, ids, weights in _weights(logits, rows, draws):
        probs = (weights / weights.sum(dim=-1, keepdim=True)).to(result.dtype)
        result[indices] = probs if ids is None else torch.zeros_like(logits[indices]).scatter_(-1, ids, probs)
    return result


def _weights(logits: torch.Tensor, rows: list[LogitsRow], draws: list[Draw]) -> list[WeightedRows]:
    """Return the unnormalized probabilities to draw from, with XTC applied."""
    groups = weighted_rows(logits, draws)
    for group in groups:
        _exclude_top_choices(group.weights, [rows[index] for index in group.rows])
    return groups


def _exclude_top_choices(weights: torch.Tensor, rows: list[LogitsRow]) -> None:
    """Apply XTC to weights ([l, C]) in place, in rows where the random draw says so."""
    excluding, thresholds = [], []
    for index, row in enumerate(rows):
        xtc = row.sampling.xtc
        if xtc is not None and excludes_top_choices(row):
            excluding.append(index)
            thresholds.append(xtc.threshold)
    if excluding:
        numbers = torch.tensor(thresholds, dtype=torch.float64, device=weights.device)
        weights[excluding] = without_top_choices(weights[excluding], numbers)
