"""Locally typical sampling: keeps the tokens whose surprise is closest to the expected surprise (Meister et al. 2022).

The expected surprise is the entropy of the row's distribution. Tokens are kept in the order of |surprise - entropy|
until their probabilities add up to typical_p; tokens with equal values are kept or dropped together. The likeliest
token may be dropped.
"""

import torch

from engine.sampling.rows import LogitsRow

_WINDOW = 256  # likeliest tokens; most often they have the mass


def apply_typical(logits: torch.Tensor, rows: list[LogitsRow]) -> None:
    """Set the logits ([L, V] fp32, before temperature) of atypical tokens to -inf, in rows that use typical_p.

    Top-k comes before: in these rows, logits outside the top k are set to -inf too.
    """
    chosen = [index for index, row in enumerate(rows) if row.sampling.typical_p < 1.0]
    if not chosen:
        return
    params = [rows[index].sampling for index in chosen]
    temperature = torch.tensor([p.temperature for p in params], dtype=torch.float64, device=logits.device)
    scaled = logits[chosen].double() / temperature.unsqueeze(-1)
    for values, p in zip(scaled, params, strict=True):
        if 0 < p.top_k < len(values):
            values.masked_fill_(values < values.topk(p.top_k).values[-1], -torch.inf)
    log_probs = scaled.log_softmax(dim=-1)
    probs = log_probs.exp()
    entropy = -torch.where(probs > 0, probs * log_probs, 0.0).sum(dim=-1, keepdim=True)
    distance = (-log_probs - entropy).abs()  # inf where a token is ruled out
    limits = [_largest_distance(d, p, each.typical_p) for d, p, each in zip(distance, probs, params, strict=True)]
    is_out = (distance > torch.stack(limits).unsqueeze(-1)) | (scaled == -torch.inf)
    logits[chosen] = logits[chosen].masked_fill(is_out, -torch.inf)


def _largest_distance(distance: torch.Tensor, probs: torch.Tensor, mass: float) -> torch.Tensor:
    """Return the largest |surprise - entropy| of a kept token. distance, probs: [V]."""
    # The likeliest tokens of that mass bound it. Sorting only tokens within the bound is far cheaper than sorting all.
    likeliest, ids = probs.topk(min(len(probs), _WINDOW))
    num_enough = int((likeliest.cumsum(dim=-1) < mass).sum()) + 1
    if num_enough <= len(ids):
        inside = distance <= distance[ids[:num_enough]].max()
        distance, probs = distance[inside], probs[inside]
    nearest, order = distance.sort()
    # The first whose total reaches the mass; rounding may keep even the total of all tokens below it.
    last = int((probs[order].cumsum(dim=-1) < mass).sum())
    return nearest[min(last, len(nearest) - 1)]
