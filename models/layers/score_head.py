"""ScoreHead: scores a text's pooled vector, one score for each label."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from models.architecture.feed_forward import Activation
from models.architecture.pooling import ScoreHeadSpec
from models.layers.norm import Norm
from models.linear.linear import Linear
from models.linear.method import LinearMethod

_ACTIVATIONS: dict[Activation, Callable[[torch.Tensor], torch.Tensor]] = {
    Activation.TANH: torch.tanh,
    Activation.GELU: F.gelu,
    Activation.RELU: F.relu,
    Activation.SILU: F.silu,
}


class ScoreHead(nn.Module):
    """An optional dense layer, an optional norm and the output layer. Computed by torch, since there are few rows."""

    def __init__(self, spec: ScoreHeadSpec, hidden_size: int, *, method: LinearMethod) -> None:
        super().__init__()
        self._activation = None if spec.dense_activation is None else _ACTIVATIONS[spec.dense_activation]
        self.dense = (
            Linear(hidden_size, hidden_size, has_bias=spec.has_dense_bias, method=method)
            if self._activation is not None
            else None
        )
        self.norm = None if spec.norm is None else Norm(spec.norm, hidden_size)
        self.out = Linear(hidden_size, spec.num_labels, has_bias=spec.has_bias, method=method)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Return the scores (logits) [S, labels], fp32, of pooled vectors [S, hidden], fp32."""
        if self.dense is not None:
            assert self._activation is not None
            pooled = self._activation(self.dense(pooled, out_dtype=torch.float32))
        if self.norm is not None:
            pooled = self.norm(pooled)
        scores: torch.Tensor = self.out(pooled, out_dtype=torch.float32)
        return scores
