"""Kullback-Leibler divergence of a decoder in training from its base model, with a gradient."""

import torch

from models.decoder import Decoder
from models.training.head_logits import HeadLogits, RowResults, of_logits


def divergence(decoder: Decoder, hidden: torch.Tensor, base_rows: torch.Tensor) -> torch.Tensor:
    """Return the KL divergence of next-token distributions from the base model's, in nats: [L] fp32.

    hidden: [L, hidden], rows of the decoder's forward. base_rows: [L, in], inputs of the base model's output layer. The
    divergence and its gradient are 0 for equal rows.
    """

    def compute(logits: torch.Tensor, of_base: torch.Tensor) -> RowResults:
        log_probs = logits.log_softmax(dim=1)
        base_log_probs = HeadLogits(decoder, of_base).values.log_softmax(dim=1)
        probs = base_log_probs.exp()
        return ((probs * (base_log_probs - log_probs)).sum(dim=1),), lambda: log_probs.exp_().sub_(probs)

    return of_logits(decoder, hidden, base_rows, compute)[0]
