"""TokenLogProbs: log probabilities of given tokens, without keeping the logits of a vocabulary."""

from typing import Any, NamedTuple

import torch

from models.decoder import Decoder
from models.linear.prologue import IDENTITY
from models.training.lora import frozen_weight

_MAX_LOGITS = 1 << 24  # computed at a time: 64 MB in fp32


class TokenLogProbs(NamedTuple):
    log_probs: torch.Tensor  # [L] fp32, of the targets; with a gradient
    is_likeliest: torch.Tensor  # [L] bool, whether the target is what greedy decoding would choose


def token_log_probs(decoder: Decoder, hidden: torch.Tensor, targets: torch.Tensor) -> TokenLogProbs:
    """Of `targets` [L] after the rows `hidden` [L, hidden] of the decoder's forward."""
    norm = decoder.norm or IDENTITY
    rows = decoder.project_out(hidden, norm) if decoder.project_out is not None else norm(hidden)
    return TokenLogProbs(*_LogProbs.apply(rows, targets, decoder))


class _LogProbs(torch.autograd.Function):
    """A row's gradient is its own log probability's times a number: so forward computes it, chunk by chunk while the
    logits are there, and backward scales it."""

    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, targets: torch.Tensor, decoder: Decoder
    ) -> tuple[torch.Tensor, torch.Tensor]:
        needs_gradient = ctx.needs_input_grad[0]
        step = max(1, _MAX_LOGITS // decoder.spec.vocab_size)
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
    """[n] log probabilities, [n] whether likeliest, [n, hidden] gradients of the log probabilities by the rows."""
    assert decoder.head is not None
    spec, head = decoder.spec, frozen_weight(decoder.head)
    logits = head.product(rows, torch.float32)
    if spec.logit_scale != 1.0:
        logits = logits * spec.logit_scale
    squashed = None
    if spec.logit_softcap is not None:
        squashed = torch.tanh(logits / spec.logit_softcap)
        logits = squashed * spec.logit_softcap
    at_target = targets.unsqueeze(1)
    log_probs = logits.log_softmax(dim=1)
    likeliest = logits.argmax(dim=1) == targets
    chosen = log_probs.gather(1, at_target).squeeze(1)
    if not needs_gradient:
        return chosen, likeliest, rows.new_empty(0)
    by_logit = log_probs.exp_().neg_()
    by_logit.scatter_add_(1, at_target, torch.ones_like(at_target, dtype=by_logit.dtype))
    if squashed is not None:
        by_logit *= 1 - squashed.square()
    if spec.logit_scale != 1.0:
        by_logit *= spec.logit_scale
    return chosen, likeliest, head.times(by_logit).to(rows.dtype)
