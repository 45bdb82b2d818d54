"""DenseLinearMethod: weights in the dtype of activations, multiplied by torch."""

import torch
import torch.nn.functional as F

from models.checkpoints.base import StoredTensor
from models.kernels.row_input import Prologue
from models.kernels.torch.linear import LinearOperations
from models.linear.method import LinearLayer, LinearMethod, ParameterSpec, Rearrange

DTYPE_NAMES = {torch.bfloat16: "bf16", torch.float16: "f16", torch.float32: "f32"}


class DenseLinearMethod(LinearMethod):
    """Dense weights, multiplied by torch. Stateless, and so shared by all layers that use it."""

    name = "dense"

    def __init__(self, dtype: torch.dtype, operations: LinearOperations | None = None) -> None:
        """operations: the device's; torch's by default."""
        self.dtype = self.bias_dtype = dtype
        self._operations = operations or LinearOperations()

    def parameters(self, in_features: int, out_features: int) -> tuple[ParameterSpec, ...]:
        return (ParameterSpec("weight", (out_features, in_features), self.dtype),)

    def load(self, layer: LinearLayer, shard: str | None, tensor: StoredTensor, rearrange: Rearrange) -> None:
        assert tensor.read is not None
        layer.weight.narrow(0, *layer.rows(shard)).copy_(rearrange(tensor.read(self.dtype)))

    def apply(
        self,
        x: torch.Tensor,
        layer: LinearLayer,
        prologue: Prologue,
        residual: torch.Tensor | None,
        out_dtype: torch.dtype | None,
    ) -> torch.Tensor:
        rows = self._operations.prepare(x, prologue, self.dtype)
        return self._operations.multiply(rows, layer.weight, layer.bias, residual, out_dtype)

    def look_up(self, ids: torch.Tensor, layer: LinearLayer) -> torch.Tensor:
        return F.embedding(ids, layer.weight)

    def read_rows(self, layer: LinearLayer, first: int, count: int, dtype: torch.dtype) -> torch.Tensor:
        return layer.weight.narrow(0, first, count).to(dtype)

    def format_of(self, shard: str | None) -> str:  # noqa: ARG002 (all shards are alike)
        return DTYPE_NAMES[self.dtype]
