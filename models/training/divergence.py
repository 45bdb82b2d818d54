"""Divergence of a decoder's distributions in training from its base's, with a gradient."""

from typing import Any

import torch

from models.decoder import Decoder
from models.training.head_logits import HeadLogits, chunk_rows, head_rows


def divergence(decoder: Decoder, hidden: torch.Tensor, base_rows: torch.Tensor) -> torch.Tensor:
    """Return the Kullback-Leibler divergence from the base's next-token distributions, in nats: [L] fp32.

    hidden: [L, hidden], rows of the decoder's forward. base_rows: [L, in], `head_rows` of the base. The divergence and
    its gradient are 0 for equal rows.
    """
    found: torch.Tensor = _Divergence.apply(head_rows(decoder, hidden), base_rows, decoder)
    return found


class _Divergence(torch.autograd.Function):
    """Divergence whose gradient is computed in forward, while the logits exist, and scaled in backward; see
    _LogProbs.
    """

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, base_rows: torch.Tensor, decoder: Decoder) -> torch.Tensor:
        needs_gradient = ctx.needs_input_grad[0]
        step = chunk_rows(decoder)
        values, gradients = [], []
        for some, of_base in zip(rows.split(step), base_rows.split(step), strict=True):
            logits = HeadLogits(decoder, some)
            log_probs = logits.values.log_softmax(dim=1)
            base_log_probs = HeadLogits(decoder, of_base).values.log_softmax(dim=1)
            probs = base_log_probs.exp()
            values.append((probs * (base_log_probs - log_probs)).sum(dim=1))
            if needs_gradient:
                gradients.append(logits.gradient(log_probs.exp_().sub_(probs)))
        if needs_gradient:
            ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(values)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (of_rows,) = ctx.saved_tensors
        return of_rows * gradients[0].unsqueeze(1).to(of_rows.dtype), None, None
