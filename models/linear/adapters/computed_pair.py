"""Conversion of LoRA pairs to the form that banks compute with: scale, DoRA gain and bias folded in."""

from typing import Protocol

import torch

from models.kernels.operands import LowRankChange
from models.linear.adapters.adapter import LowRankPair
from models.linear.method import LinearLayer, LinearMethod


class AdaptedLayer(LinearLayer, Protocol):
    """The interface of a linear layer that its adapter bank uses."""

    method: LinearMethod

    def read_rows(self, first: int, count: int) -> torch.Tensor:
        """Return rows first .. first + count - 1 of the weight, dequantized: [count, in] fp32."""


def computed_pair(layer: AdaptedLayer, pair: LowRankPair) -> LowRankChange:
    """Fold the pair's scale and gain into its matrix b, on the CPU in fp32; a stays the same tensor.

    With the gain c of a LowRankPair, and y = W x + bias of the layer:

        c (W + scale * b a) x + bias = c y + (c * scale * b) a x + (1 - c) bias
    """
    b = pair.b.to(torch.float32) * pair.scale
    shift = None if pair.bias is None else pair.bias.to(torch.float32) * pair.scale
    gain = pair.gain
    if gain is not None:
        b = b * gain.unsqueeze(1)
        shift = None if shift is None else shift * gain
        if layer.bias is not None:
            own = layer.bias.narrow(0, pair.first, len(b)).to(torch.float32).cpu() * (1 - gain)
            shift = own if shift is None else shift + own
    return LowRankChange(pair.first, pair.a, b, gain, shift)
