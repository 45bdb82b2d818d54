"""Linear: a projection, or several fused into one GEMM, with any storage of weights, a prologue and a residual."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from models.kernels.row_input import IDENTITY, Prologue
from models.kernels.torch.linear import LinearOperations
from models.linear.adapters.bank import AdapterBank, make_bank
from models.linear.method import LinearMethod


class Linear(nn.Module):
    """y = W prologue(x) + b (+ residual). `method` stores W and multiplies by it.

    `shards` names the ranges of output rows that separate tensors of a checkpoint fill (q, k and v of a fused qkv), in
    the order of `shard_sizes`. After `enable_adapters`, a row may have an adapter.
    """

    weight: torch.Tensor  # where the method has a parameter of that name
    bias: torch.Tensor | None

    def __init__(
        self,
        in_features: int,
        shard_sizes: Mapping[str, int] | int,
        *,
        has_bias: bool,
        method: LinearMethod,
    ) -> None:
        super().__init__()
        sizes = {} if isinstance(shard_sizes, int) else dict(shard_sizes)
        self.in_features = in_features
        self.out_features = shard_sizes if isinstance(shard_sizes, int) else sum(sizes.values())
        self.has_bias = has_bias
        self.shards: dict[str, tuple[int, int]] = {}  # name -> (first row, rows)
        row = 0
        for name, size in sizes.items():
            self.shards[name] = (row, size)
            row += size
        self.adapters: AdapterBank[Any] | None = None
        self.set_method(method)

    def set_method(self, method: LinearMethod) -> None:
        """Replace the method that stores the weights. Must be called before memory is allocated."""
        for name in list(self._parameters):
            delattr(self, name)
        self.method = method
        for spec in method.parameters(self.in_features, self.out_features):
            self.register_parameter(spec.name, empty_parameter(spec.shape, spec.dtype))
        bias = empty_parameter((self.out_features,), method.bias_dtype) if self.has_bias else None
        self.register_parameter("bias", bias)

    def rows(self, shard: str | None) -> tuple[int, int]:
        """Return (first, count) of a shard's output rows; of the whole layer for None."""
        return (0, self.out_features) if shard is None else self.shards[shard]

    def enable_adapters(self, max_slots: int, max_rank: int, operations: LinearOperations) -> None:
        """Add adapter slots 0 .. max_slots - 1. Called once, after the weights are loaded. operations: the device's."""
        self.adapters = make_bank(self, max_slots, max_rank, operations)

    def read_rows(self, first: int, count: int) -> torch.Tensor:
        """Return rows first .. first + count - 1 of the weight, dequantized: [count, in] fp32."""
        return self.method.read_rows(self, first, count, torch.float32)

    def forward(
        self,
        x: torch.Tensor,
        prologue: Prologue = IDENTITY,
        *,
        residual: torch.Tensor | None = None,
        out_dtype: torch.dtype | None = None,
        adapter_slots: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return W prologue(x) + b (+ residual): [T, out] in `out_dtype`, by default the residual's or x's.

        x: [T, n], the prologue's input. residual: [T, out], added; it may be overwritten by the result. adapter_slots:
        [T] int32, -1 for rows without an adapter; None if no row has one.
        """
        if adapter_slots is None or self.adapters is None:
            return self.method.apply(x, self, prologue, residual, out_dtype)
        last_slots = self.adapters.residual_last_slots
        if residual is None or not last_slots:
            return self.adapters.multiply(x, prologue, residual, out_dtype, adapter_slots)
        slots = torch.tensor(last_slots, device=adapter_slots.device)
        rows = torch.isin(adapter_slots, slots).nonzero().squeeze(1)
        own = residual[rows]  # a copy
        residual[rows] = 0  # other rows are computed alike, whatever is loaded
        y = self.adapters.multiply(x, prologue, residual, out_dtype, adapter_slots)
        y[rows] += own
        return y


def empty_parameter(shape: tuple[int, ...], dtype: torch.dtype) -> nn.Parameter:
    """Make a parameter on the meta device. `Decoder.allocate` gives it memory, and the loader fills it."""
    return nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"), requires_grad=False)
