"""Functions of logits, such as losses, with gradients, computed in chunks of rows, since vocabularies are large."""

from collections.abc import Callable
from typing import Any

import torch

from models.decoder import Decoder
from models.kernels.row_input import IDENTITY
from models.training.lora import frozen_weight

_MAX_LOGITS = 1 << 24  # computed together: 64 MB in fp32

# Results [n] each, and a function that returns the gradient of the first by the logits, [n, V]. The function may
# overwrite temporaries, but not the results.
RowResults = tuple[tuple[torch.Tensor, ...], Callable[[], torch.Tensor]]
# (logits [n, V] fp32, what is given for the rows) -> results
RowFunction = Callable[[torch.Tensor, torch.Tensor], RowResults]


def head_rows(decoder: Decoder, hidden: torch.Tensor) -> torch.Tensor:
    """Return the inputs of the output layer. hidden: [L, hidden], rows of the decoder's forward."""
    norm = decoder.norm or IDENTITY
    return decoder.project_out(hidden, norm) if decoder.project_out is not None else norm(hidden)


def of_logits(
    decoder: Decoder, hidden: torch.Tensor, given: torch.Tensor, compute: RowFunction
) -> tuple[torch.Tensor, ...]:
    """Return the results of `compute` for all rows, [L] each, computed in chunks; the first is differentiable.

    hidden: [L, hidden], rows of the decoder's forward. given: [L, ...], passed to `compute` with the logits.
    """
    results: tuple[torch.Tensor, ...] = _OfLogits.apply(head_rows(decoder, hidden), given, decoder, compute)
    return results


class HeadLogits:
    """Logits `values` [n, V] fp32 of rows from `head_rows`, without autograd; `gradient` is the backward pass."""

    def __init__(self, decoder: Decoder, rows: torch.Tensor) -> None:
        assert decoder.head is not None
        self._spec, self._head, self._dtype = decoder.spec, frozen_weight(decoder.head), rows.dtype
        logits = self._head.product(rows, torch.float32)
        if self._spec.logit_scale != 1.0:
            logits = logits * self._spec.logit_scale
        self._squashed: torch.Tensor | None = None
        if self._spec.logit_softcap is not None:
            self._squashed = torch.tanh(logits / self._spec.logit_softcap)
            logits = self._squashed * self._spec.logit_softcap
        self.values = logits

    def gradient(self, by_logit: torch.Tensor) -> torch.Tensor:
        """Return the gradients [n, in] of the output layer's inputs. by_logit: the logits', [n, V], overwritten."""
        if self._squashed is not None:
            by_logit *= 1 - self._squashed.square()
        if self._spec.logit_scale != 1.0:
            by_logit *= self._spec.logit_scale
        return self._head.times(by_logit).to(self._dtype)


class _OfLogits(torch.autograd.Function):
    """The autograd function of `of_logits`. It computes gradients in forward, while each chunk's logits exist.

    Each result depends on its own row only, so backward only scales that row's gradient by the result's gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: torch.Tensor, given: torch.Tensor, decoder: Decoder, compute: RowFunction
    ) -> tuple[torch.Tensor, ...]:
        step = max(1, _MAX_LOGITS // decoder.spec.vocab_size)
        results, gradients = [], []
        for some, of_some in zip(rows.split(step), given.split(step), strict=True):
            logits = HeadLogits(decoder, some)
            values, by_logit = compute(logits.values, of_some)
            results.append(values)
            if ctx.needs_input_grad[0]:
                gradients.append(logits.gradient(by_logit()))
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
        first, *others = (torch.cat(parts) for parts in zip(*results, strict=True))
        ctx.mark_non_differentiable(*others)
        return first, *others

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (of_rows,) = ctx.saved_tensors
        return of_rows * gradients[0].unsqueeze(1).to(of_rows.dtype), None, None, None
