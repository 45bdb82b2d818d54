"""Linear: a quantisable projection, possibly several fused into one GEMM."""

from collections.abc import Mapping

import torch
from torch import nn

from models.quant.base import QuantScheme


class Linear(nn.Module):
    """y = W x + b, with W in the form that `scheme` stores.

    `shards` names the output rows that separate checkpoint tensors fill (q, k and v of a fused qkv). Rows stand in the
    order of `shard_sizes`.
    """

    weight: torch.Tensor  # where the scheme has a parameter of that name
    bias: torch.Tensor | None

    def __init__(
        self,
        in_features: int,
        shard_sizes: Mapping[str, int] | int,
        *,
        has_bias: bool,
        scheme: QuantScheme,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        sizes = {} if isinstance(shard_sizes, int) else dict(shard_sizes)
        self.in_features = in_features
        self.out_features = shard_sizes if isinstance(shard_sizes, int) else sum(sizes.values())
        self.scheme = scheme
        self.shards: dict[str, tuple[int, int]] = {}  # name -> (first row, rows)
        row = 0
        for name, size in sizes.items():
            self.shards[name] = (row, size)
            row += size
        for spec in scheme.parameters(in_features, self.out_features):
            self.register_parameter(spec.name, empty_parameter(spec.shape, spec.dtype, device))
        self.register_parameter("bias", empty_parameter((self.out_features,), dtype, device) if has_bias else None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scheme.apply(x, self)


def empty_parameter(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> nn.Parameter:
    """An uninitialised parameter for the loader to fill: drawing random weights first would cost minutes."""
    return nn.Parameter(torch.empty(shape, dtype=dtype, device=device), requires_grad=False)
