"""PerHeadLinear: a matrix of its own for each head."""

import torch
from torch import nn

from models.kernels.cpu.arena import HugePageArena
from models.kernels.cpu.head_linear import multiply_heads, pack_heads, supports_heads
from models.linear.linear import empty_parameter


class PerHeadLinear(nn.Module):
    """y[t, h] = W[h] x[t, h]. Stored in `dtype`, also where the checkpoint is quantized.

    After `pack_into`, `process_after_loading` packs the weight for the native kernel, which then computes.
    """

    weight: torch.Tensor  # [H, out, in]

    def __init__(self, num_heads: int, in_features: int, out_features: int, *, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = empty_parameter((num_heads, out_features, in_features), dtype)
        self._arena: HugePageArena | None = None

    def pack_into(self, arena: HugePageArena) -> None:
        """Compute natively, if the kernel supports the shape, from memory of the arena; call it before loading."""
        _, out_features, in_features = self.weight.shape
        if supports_heads(in_features, out_features):
            self._arena = arena

    def process_after_loading(self) -> None:
        """Make ready for `forward`; called once, after loading."""
        if self._arena is not None:
            self.weight.data = pack_heads(self.weight, arena=self._arena)

    def forward(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Writes to `out` [T, H, out], and returns it; x is [T, H, in]. Rows and heads of both may be strided."""
        if self._arena is not None:
            multiply_heads(self.weight, x, out)
        else:
            out.copy_(torch.bmm(x.transpose(0, 1), self.weight.transpose(1, 2)).transpose(0, 1))
        return out
