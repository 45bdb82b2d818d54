"""Norms of queries and keys."""

from collections.abc import Callable

import torch
from torch import nn

from models.layers.linear import empty_parameter
from models.layers.norm import make_norm
from models.spec import NormSpec, QKNormScope, QKNormSpec


class OwnWeightsNorm(nn.Module):
    """A norm of each head with weights of its own; a checkpoint may hold them head by head: the shards "0", "1", ..."""

    def __init__(self, spec: NormSpec, num_heads: int, head_dim: int) -> None:
        super().__init__()
        assert spec.has_weight
        assert not spec.has_bias
        self.weight = empty_parameter((num_heads, head_dim), torch.float32)
        self.shards = {str(head): (head, 1) for head in range(num_heads)}  # name -> (first row, rows)
        self._normalise = make_norm(NormSpec(spec.kind, spec.eps, has_weight=False), head_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self._normalise(x.to(torch.float32)) * self.weight).to(x.dtype)


def make_qk_norm(spec: QKNormSpec, num_heads: int, head_dim: int) -> nn.Module:
    """The module that holds the weights; `qk_norm_function` says how it is applied."""
    match spec.scope:
        case QKNormScope.HEAD:
            return make_norm(spec.norm, head_dim)
        case QKNormScope.HEAD_OWN_WEIGHTS:
            return OwnWeightsNorm(spec.norm, num_heads, head_dim)
        case QKNormScope.PROJECTION:
            return make_norm(spec.norm, num_heads * head_dim)


def qk_norm_function(spec: QKNormSpec, norm: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """x [T, heads, D] -> the same, normed. In torch: no native kernel norms heads."""
    if spec.scope is QKNormScope.PROJECTION:
        return lambda x: norm(x.flatten(1)).view(x.shape)
    return norm
