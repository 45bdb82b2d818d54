"""Top-n-sigma: keeps tokens whose logits are within n standard deviations of the largest (Tang et al. 2024).

The deviation is over the row's finite logits, that is without tokens ruled out by bans or grammars. Temperature scales
logits and deviation alike, so it does not change which tokens are kept.
"""

import torch

from engine.sampling.rows import LogitsRow


def apply_top_n_sigma(logits: torch.Tensor, rows: list[LogitsRow]) -> None:
    """Set the logits ([L, V] fp32) of tokens outside the range to -inf, in rows that use top_n_sigma."""
    chosen = [index for index, row in enumerate(rows) if row.sampling.top_n_sigma > 0.0]
    if not chosen:
        return
    n = [rows[index].sampling.top_n_sigma for index in chosen]
    values = logits[chosen].double()  # fp64, so that the outcome does not depend on how sums over rows are split
    is_finite = values > -torch.inf
    count = is_finite.sum(dim=-1, keepdim=True)
    mean = torch.where(is_finite, values, 0.0).sum(dim=-1, keepdim=True) / count
    variance = torch.where(is_finite, (values - mean).square(), 0.0).sum(dim=-1, keepdim=True) / count
    reach = torch.tensor(n, dtype=torch.float64, device=logits.device).unsqueeze(-1) * variance.sqrt()
    threshold = values.amax(dim=-1, keepdim=True) - reach
    logits[chosen] = logits[chosen].masked_fill(values < threshold, -torch.inf)
