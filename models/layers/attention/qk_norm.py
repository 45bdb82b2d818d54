"""Norms of queries and keys."""

import dataclasses
from collections.abc import Callable
from functools import cached_property

import torch
from torch import nn

from models.architecture.attention import QKNormScope, QKNormSpec
from models.architecture.norm import NormSpec
from models.attention.base import AttentionBackend
from models.kernels.row_input import RowInput
from models.layers.norm import Norm
from models.linear.linear import empty_parameter


class OwnWeightsNorm(nn.Module):
    """A norm over each head, with weights per head. A checkpoint may store a tensor per head: shards "0", "1", ..."""

    def __init__(self, spec: NormSpec, num_heads: int, head_dim: int) -> None:
        super().__init__()
        assert spec.has_weight
        assert not spec.has_bias
        self.weight = empty_parameter((num_heads, head_dim), torch.float32)
        self.shards = {str(head): (head, 1) for head in range(num_heads)}  # name -> (first row, rows)
        self._normalize = Norm(NormSpec(spec.kind, spec.eps, has_weight=False), head_dim)

    @cached_property
    def row_input(self) -> RowInput:
        return dataclasses.replace(self._normalize.row_input, weight=self.weight, has_weight=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self._normalize(x.to(torch.float32)) * self.weight).to(x.dtype)


def make_qk_norm(spec: QKNormSpec, num_heads: int, head_dim: int) -> Norm | OwnWeightsNorm:
    """Make the norm module of q or k, with its weights; `qk_norm_function` applies it."""
    match spec.scope:
        case QKNormScope.HEAD:
            return Norm(spec.norm, head_dim)
        case QKNormScope.HEAD_OWN_WEIGHTS:
            return OwnWeightsNorm(spec.norm, num_heads, head_dim)
        case QKNormScope.PROJECTION:
            return Norm(spec.norm, num_heads * head_dim)


def qk_norm_function(
    spec: QKNormSpec, norm: Norm | OwnWeightsNorm, backend: AttentionBackend
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function that applies the q or k norm to x [T, heads, D], possibly in place."""
    if spec.scope is QKNormScope.PROJECTION:
        return lambda x: backend.norm_heads(x.flatten(1).unsqueeze(1), norm).view(x.shape)
    return lambda x: backend.norm_heads(x, norm)
