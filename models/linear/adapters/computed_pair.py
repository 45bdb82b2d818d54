"""ComputedPair: a pair of an adapter ready to compute with, its factors folded into its matrices."""

from dataclasses import dataclass
from typing import Protocol

import torch

from models.linear.adapters.adapter import LowRankPair
from models.linear.method import LinearLayer, LinearMethod


class AdaptedLayer(LinearLayer, Protocol):
    """A layer as its bank of adapters sees it."""

    method: LinearMethod

    def read_rows(self, first: int, count: int) -> torch.Tensor:
        """Return rows of the weight, dequantized: [count, in] fp32."""


@dataclass(frozen=True, slots=True, eq=False)
class ComputedPair:
    """Outputs first .. first + len(b) - 1 become gain * y + b (a x) + shift, where gain and shift may be None.

    With the gains c of a LowRankPair, and y = W x + bias of the layer:
    c (W + scale * b a) x + bias = c y + (c * scale * b) a x + (1 - c) bias.
    """

    first: int
    a: torch.Tensor  # [r, in]
    b: torch.Tensor  # [rows, r], scaled
    gain: torch.Tensor | None = None  # [rows] fp32
    shift: torch.Tensor | None = None  # [rows] fp32

    def added_to(self, y: torch.Tensor, product: torch.Tensor) -> torch.Tensor:
        total = y.to(torch.float32)
        if self.gain is not None:
            total = total * self.gain
        total = total + product
        if self.shift is not None:
            total = total + self.shift
        return total.to(y.dtype)


def computed_pair(layer: AdaptedLayer, pair: LowRankPair, dtype: torch.dtype) -> ComputedPair:
    """Fold a pair's factors into a and b, in `dtype`, on the device of the layer's weight."""
    b = pair.b.to(torch.float32) * pair.scale
    shift = None if pair.bias is None else pair.bias.to(torch.float32) * pair.scale
    gain = pair.gain
    if gain is not None:
        b = b * gain.unsqueeze(1)
        shift = None if shift is None else shift * gain
        if layer.bias is not None:
            own = layer.bias.narrow(0, pair.first, len(b)).to(torch.float32).cpu() * (1 - gain)
            shift = own if shift is None else shift + own
    device = layer.read_rows(0, 1).device
    return ComputedPair(
        first=pair.first,
        a=pair.a.to(device, dtype),
        b=b.to(device, dtype),
        gain=None if gain is None else gain.to(device),
        shift=None if shift is None else shift.to(device),
    )
