"""LogitOperations: greedy choice, sampling and masking of logits in torch."""

from collections.abc import Sequence

import torch

from models.kernels.operands import Draw
from models.kernels.torch.draw import draw_from, weighted_rows
from models.system.memory import is_host

_WORD_BITS = 32


class LogitOperations:
    """Operations on logits [L, V] fp32 in torch; the base class of implementations by kernels. Rows may be strided."""

    def best_ids(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each row's largest logit [L] (NaN if the row has a NaN), and its token id [L]."""
        values, ids = logits.max(dim=-1)
        return values, ids

    def log_sums(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the logarithm of each row's sum of exp(logit): [L] fp32. On the CPU, it depends on the row alone."""
        if not is_host(logits.device):
            return logits.logsumexp(dim=-1)
        return torch.stack([row.logsumexp(dim=-1) for row in logits])  # of all rows at once, it would depend on them

    def top_ids(self, logits: torch.Tensor, top: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each row's `top` largest logits, the largest first, and their ids: both [L, min(top, V)].

        Of equal logits, the one with the lower id comes first. NaN counts as the largest.
        """
        top = min(top, logits.shape[1])
        if is_host(logits.device):
            ids = torch.stack([_top_ids(row, top) for row in logits])  # sorting whole rows takes far longer
        else:
            ids = logits.argsort(dim=-1, descending=True, stable=True)[:, :top]
        return logits.gather(-1, ids), ids

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
        logits[indices] = masked_logits(logits[indices], masks.to(logits.device))


def masked_logits(logits: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return the logits [n, V] with -inf where bit j of masks[i] is 0: as LogitOperations.mask_rows, on any device."""
    bits = torch.arange(_WORD_BITS, device=logits.device)
    is_allowed = (masks.unsqueeze(-1) >> bits & 1).flatten(1)[:, : logits.shape[1]].bool()
    return logits.masked_fill(~is_allowed, -torch.inf)


def _top_ids(row: torch.Tensor, top: int) -> torch.Tensor:
    row = torch.where(row.isnan(), torch.inf, row)  # nothing is equal to NaN
    found = (row >= row.topk(top).values[-1]).nonzero().squeeze(-1)  # in order of id, with all that equal the last one
    return found[row[found].argsort(descending=True, stable=True)[:top]]
