"""FrozenWeight: a linear layer's weights in their serving format, through which gradients flow to the input."""

from typing import Any

import torch

from models.kernels.row_input import IDENTITY
from models.linear.linear import Linear
from models.linear.method import LinearMethod

_MAX_ELEMENTS = 1 << 24  # dequantized together: 32 MB in bf16
_BLOCK_ROWS = 16  # packed weights are read fastest in whole blocks of rows


def _rows_at_a_time(columns: int) -> int:
    return max(_BLOCK_ROWS, _MAX_ELEMENTS // columns // _BLOCK_ROWS * _BLOCK_ROWS)


class FrozenWeight:
    """A weight in its serving format, dequantized in parts for each gradient, as fast as if kept in bf16."""

    def __init__(self, layer: Linear, method: LinearMethod, dtype: torch.dtype) -> None:
        """method: the layer's serving method. dtype: the dtype of products with gradients."""
        self._layer = layer
        self._method = method
        self._dtype = dtype

    def product(self, rows: torch.Tensor, out_dtype: torch.dtype) -> torch.Tensor:
        """Return rows W^T + b in `out_dtype`, computed as in serving, without a gradient."""
        return self._method.apply(rows, self._layer, IDENTITY, None, out_dtype)

    def times(self, gradients: torch.Tensor) -> torch.Tensor:
        """Return gradients [T, out] times W, the gradient of the layer's input: [T, in]."""
        num_rows, step = self._layer.out_features, _rows_at_a_time(self._layer.in_features)
        if step >= num_rows:
            return gradients.to(self._dtype) @ self._rows(0, num_rows)
        total = gradients.new_zeros(len(gradients), self._layer.in_features, dtype=torch.float32)
        for first in range(0, num_rows, step):
            count = min(step, num_rows - first)
            total += gradients.narrow(1, first, count).to(self._dtype) @ self._rows(first, count)
        return total

    def _rows(self, first: int, count: int) -> torch.Tensor:
        return self._method.read_rows(self._layer, first, count, self._dtype)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weight: FrozenWeight, out_dtype: torch.dtype) -> torch.Tensor:
        ctx.weight, ctx.dtype = weight, rows.dtype
        return weight.product(rows, out_dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return ctx.weight.times(gradients[0]).to(ctx.dtype), None, None


def multiply_frozen(rows: torch.Tensor, weight: FrozenWeight, out_dtype: torch.dtype) -> torch.Tensor:
    """Return rows W^T + b as in serving, with a gradient for `rows` that ignores their rounding, such as to int8."""
    result: torch.Tensor = _Product.apply(rows, weight, out_dtype)
    return result
