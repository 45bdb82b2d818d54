"""TokenLogProbs: log probabilities of given tokens, computed without keeping a vocabulary's logits."""

from typing import Any, NamedTuple

import torch

from models.decoder import Decoder
from models.training.head_logits import HeadLogits, chunk_rows, head_rows


class TokenLogProbs(NamedTuple):
    """Log probabilities of target tokens."""

    log_probs: torch.Tensor  # [L] fp32, with a gradient
    is_likeliest: torch.Tensor  # [L] bool, whether greedy decoding would choose the target


def token_log_probs(decoder: Decoder, hidden: torch.Tensor, targets: torch.Tensor) -> TokenLogProbs:
    """Return the log probabilities of `targets` [L] after `hidden` [L, hidden], rows of the decoder's forward."""
    return TokenLogProbs(*_LogProbs.apply(head_rows(decoder, hidden), targets, decoder))


class _LogProbs(torch.autograd.Function):
    """Log probabilities whose gradient is computed in forward, chunk by chunk while the logits exist.

    A row's gradient is a multiple of its log probability's, so backward only scales it.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, targets: torch.Tensor, decoder: Decoder
    ) -> tuple[torch.Tensor, torch.Tensor]:
        needs_gradient = ctx.needs_input_grad[0]
        step = chunk_rows(decoder)
        chunks = zip(rows.split(step), targets.split(step), strict=True)
        log_probs, is_likeliest, gradients = zip(
            *(_chunk(each, wanted, decoder, needs_gradient) for each, wanted in chunks), strict=True
        )
        if needs_gradient:
            ctx.save_for_backward(torch.cat(gradients))
        likeliest = torch.cat(is_likeliest)
        ctx.mark_non_differentiable(likeliest)
        return torch.cat(log_probs), likeliest

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (of_rows,) = ctx.saved_tensors
        return of_rows * gradients[0].unsqueeze(1).to(of_rows.dtype), None, None


def _chunk(
    rows: torch.Tensor, targets: torch.Tensor, decoder: Decoder, needs_gradient: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return [n] log probabilities, [n] whether likeliest, and [n, hidden] gradients of the log probabilities."""
    logits = HeadLogits(decoder, rows)
    at_target = targets.unsqueeze(1)
    log_probs = logits.values.log_softmax(dim=1)
    likeliest = logits.values.argmax(dim=1) == targets
    chosen = log_probs.gather(1, at_target).squeeze(1)
    if not needs_gradient:
        return chosen, likeliest, rows.new_empty(0)
    by_logit = log_probs.exp_().neg_()
    by_logit.scatter_add_(1, at_target, torch.ones_like(at_target, dtype=by_logit.dtype))
    return chosen, likeliest, logits.gradient(by_logit)
