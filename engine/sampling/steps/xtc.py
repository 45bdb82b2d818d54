"""XTC, "exclude top choices" (p-e-w, 2024): with some probability, drops a row's likeliest tokens.

Among tokens with at least the threshold's probability, all except the least likely are dropped; tokens tied for the
least likely stay. XTC comes after all other truncations, and uses probabilities renormalized over the remaining tokens.
"""

import torch

from engine.sampling.draw import Purpose, uniform
from engine.sampling.rows import LogitsRow


def excludes_top_choices(row: LogitsRow) -> bool:
    """Return whether XTC applies to this row, decided by a random number that depends only on seed and position."""
    xtc = row.sampling.xtc
    assert xtc is not None
    return uniform(row.seed, row.position, Purpose.XTC) < xtc.probability


def without_top_choices(weights: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    """Return the weights with dropped tokens set to 0. weights: [l, C], unnormalized. thresholds: [l]."""
    probs = weights.double()
    probs = probs / probs.sum(dim=-1, keepdim=True)
    is_top = probs >= thresholds.unsqueeze(-1)
    least = torch.where(is_top, probs, torch.inf).amin(dim=-1, keepdim=True)
    return weights.masked_fill(is_top & (probs > least), 0.0)
