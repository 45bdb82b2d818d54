"""TokenLogProbs: log probabilities of given tokens, computed without keeping all logits."""

from typing import NamedTuple

import torch

from models.decoder import Decoder
from models.training.head_logits import RowResults, of_logits


class TokenLogProbs(NamedTuple):
    """Log probabilities of target tokens, and whether each target is the most likely token."""

    log_probs: torch.Tensor  # [L] fp32, with a gradient
    is_likeliest: torch.Tensor  # [L] bool, whether greedy decoding would choose the target


def token_log_probs(decoder: Decoder, hidden: torch.Tensor, targets: torch.Tensor) -> TokenLogProbs:
    """Return the log probabilities of the next tokens `targets` [L]. hidden: [L, hidden], rows of forward's result."""
    return TokenLogProbs(*of_logits(decoder, hidden, targets, _log_probs))


def _log_probs(logits: torch.Tensor, targets: torch.Tensor) -> RowResults:
    at_target = targets.unsqueeze(1)
    log_probs = logits.log_softmax(dim=1)

    def by_logit() -> torch.Tensor:
        minus_probs = log_probs.exp_().neg_()
        return minus_probs.scatter_add_(1, at_target, torch.ones_like(at_target, dtype=log_probs.dtype))

    return (log_probs.gather(1, at_target).squeeze(1), logits.argmax(dim=1) == targets), by_logit
