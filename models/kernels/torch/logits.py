"""Choice of tokens from rows of logits in torch: the largest logit, draws within limits, masks."""

from collections.abc import Sequence

import torch

from models.kernels.operands import Draw
from models.kernels.torch.draw import draw_from, weighted_rows

_WORD_BITS = 32


class LogitOperations:
    """Operations on logits [L, V] fp32, whose rows may be strided: the torch column, and the base of the others."""

    def best_ids(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the value [L] and the id [L] of each row's largest logit; the value is NaN where any of the row is."""
        values, ids = logits.max(dim=-1)
        return values, ids

    def top1_probs(self, logits: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Return the softmax [L] of each row at its largest logit, which is in `values` [L] and finite."""
        return (values - logits.logsumexp(dim=-1)).exp()

    def draw_ids(self, logits: torch.Tensor, draws: Sequence[Draw]) -> list[int]:
        """Draw a token id for each row; the largest logit of each is finite."""
        return draw_from(weighted_rows(logits, draws), [each.uniform for each in draws])

    def mask_rows(self, logits: torch.Tensor, rows: Sequence[int], masks: torch.Tensor) -> None:
        """Set logits[rows[i], j] to -inf where bit j of masks[i] is 0. masks: [len(rows), W] int32 on the CPU, 32
        columns a word, the lowest bit first."""
        indices = list(rows)
        bits = torch.arange(_WORD_BITS, device=logits.device)
        is_allowed = (masks.to(logits.device).unsqueeze(-1) >> bits & 1).flatten(1)[:, : logits.shape[1]].bool()
        logits[indices] = logits[indices].masked_fill(~is_allowed, -torch.inf)
