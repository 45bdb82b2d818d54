"""XTC, "exclude top choices" (p-e-w, 2024): with some probability, a row loses its likeliest tokens.

Of the tokens whose probability is at least the threshold, all but the least likely are excluded; if several are the
least likely, all of these stay. XTC comes after all other limits, and the probabilities are taken among the tokens that
survive these.
"""

import torch

from engine.sampling.draw import Purpose, uniform
from engine.sampling.rows import LogitsRow


def excludes_top_choices(row: LogitsRow) -> bool:
    """Whether this row loses its top choices: by a random number of its own, a function of seed and position."""
    xtc = row.sampling.xtc
    assert xtc is not None
    return uniform(row.seed, row.position, Purpose.XTC) < xtc.probability


def without_top_choices(weights: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    """Return the weights with the top choices set to 0. weights: [l, C], of any scale; thresholds: [l]."""
    probs = weights.double()
    probs = probs / probs.sum(dim=-1, keepdim=True)
    is_top = probs >= thresholds.unsqueeze(-1)
    least = torch.where(is_top, probs, torch.inf).amin(dim=-1, keepdim=True)
    return weights.masked_fill(is_top & (probs > least), 0.0)
