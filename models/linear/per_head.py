"""PerHeadLinear: a linear layer with a separate matrix for each head."""

import torch
from torch import nn

from models.compute import ComputeConfig
from models.kernels.cpu.arena import HugePageArena
from models.kernels.torch.rows import multiply_heads
from models.linear.linear import empty_parameter


class PerHeadLinear(nn.Module):
    """y[t, h] = W[h] x[t, h]. The weight has the dtype of activations, even if the checkpoint is quantized."""

    weight: torch.Tensor  # [H, out, in]

    def __init__(self, num_heads: int, in_features: int, out_features: int, compute: ComputeConfig) -> None:
        super().__init__()
        self.weight = empty_parameter((num_heads, out_features, in_features), compute.dtype)
        self._product = compute.ops.head_product(in_features, out_features)
        self._arena: HugePageArena | None = None

    @property
    def is_in_torch(self) -> bool:
        """Whether torch multiplies, since no kernel takes the sizes."""
        return self._product.multiply is multiply_heads

    def pack_into(self, arena: HugePageArena) -> None:
        """Allocate the packed weight in the arena; called before loading."""
        self._arena = arena

    def process_after_loading(self) -> None:
        """Pack the weight for `forward`; called once, after loading."""
        self.weight.data = self._product.pack(self.weight, self._arena)

    def forward(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Write W[h] x[t, h] for x [T, H, in] to `out` [T, H, out], and return it. Rows and heads may be strided."""
        self._product.multiply(self.weight, x, out)
        return out
