"""Divergence of a decoder's distributions in training from its base's, with a gradient."""

import torch

from models.decoder import Decoder
from models.training.head_logits import HeadLogits, RowResults, of_logits


def divergence(decoder: Decoder, hidden: torch.Tensor, base_rows: torch.Tensor) -> torch.Tensor:
    """Return the Kullback-Leibler divergence from the base's next-token distributions, in nats: [L] fp32.

    hidden: [L, hidden], rows of the decoder's forward. base_rows: [L, in], `head_rows` of the base. The divergence and
    its gradient are 0 for equal rows.
    """

    def compute(logits: torch.Tensor, of_base: torch.Tensor) -> RowResults:
        log_probs = logits.log_softmax(dim=1)
        base_log_probs = HeadLogits(decoder, of_base).values.log_softmax(dim=1)
        probs = base_log_probs.exp()
        return ((probs * (base_log_probs - log_probs)).sum(dim=1),), lambda: log_probs.exp_().sub_(probs)

    return of_logits(decoder, hidden, base_rows, compute)[0]
