"""Logits of rows, and gradients of rows by gradients of their logits, in chunks, since vocabularies are large."""

import torch

from models.decoder import Decoder
from models.kernels.row_input import IDENTITY
from models.training.lora import frozen_weight

_MAX_LOGITS = 1 << 24  # computed together: 64 MB in fp32


def head_rows(decoder: Decoder, hidden: torch.Tensor) -> torch.Tensor:
    """Return the inputs of the output layer for `hidden` [L, hidden], rows of the decoder's forward."""
    norm = decoder.norm or IDENTITY
    return decoder.project_out(hidden, norm) if decoder.project_out is not None else norm(hidden)


def chunk_rows(decoder: Decoder) -> int:
    """Return the number of rows whose logits are computed together."""
    return max(1, _MAX_LOGITS // decoder.spec.vocab_size)


class HeadLogits:
    """Logits of some `head_rows`, `values`: [n, V] fp32, outside of autograd; `gradient` is the backward pass."""

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
        """Return the rows' gradients [n, in] from gradients of their logits [n, V], which are overwritten."""
        if self._squashed is not None:
            by_logit *= 1 - self._squashed.square()
        if self._spec.logit_scale != 1.0:
            by_logit *= self._spec.logit_scale
        return self._head.times(by_logit).to(self._dtype)
