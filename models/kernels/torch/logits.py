"""LogitOperations: greedy choice, sampling and masking of logits in torch."""

from collections.abc import Sequence

import torch

from models.kernels.operands import Draw
from models.kernels.torch.draw import draw_from, weighted_rows

_WORD_BITS = 32


class LogitOperations:
    """Operations on logits [L, V] fp32 in torch; the base class of implementations by kernels. Rows may be strided."""

    def best_ids(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each row's largest logit [L] (NaN if the row has a NaN), and its token id [L]."""
        values, ids = logits.max(dim=-1)
        return values, ids

    def top1_probs(self, logits: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Return the probability [L] of each row's most likely token. values: the rows' largest logits, [L], finite."""
        return (values - logits.logsumexp(dim=-1)).exp()

    def draw_ids(self, logits: torch.Tensor, draws: Sequence[Draw]) -> list[int]:
        """Sample a token id for each row. The largest logit of each row must be finite."""
        return draw_from(weighted_rows(logits, draws), [each.uniform for each in draws])

    def mask_rows(self, logits: torch.Tensor, rows: Sequence[int], masks: torch.Tensor) -> None:
        """Set logits[rows[i], j] to -inf where bit j of masks[i] is 0. masks: [len(rows), W] int32 on the CPU, 32
        columns a word, the lowest bit first."""
        indices = list(rows)
        bits = torch.arange(_WORD_BITS, device=logits.device)
        is_allowed = (masks.to(logits.device).unsqueeze(-1) >> bits & 1).flatten(1)[:, : logits.shape[1]].bool()
        logits[indices] = logits[indices].masked_fill(~is_allowed, -torch.inf)
