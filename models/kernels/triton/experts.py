"""GroupedExperts: a mixture of experts on a GPU, without a number that the host reads."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from models.kernels.operands import DenseMatrix, ExpertLayer
from models.kernels.row_input import InputKind, Prologue
from models.kernels.torch.experts import MixedExperts, route
from models.kernels.torch.linear import LinearOperations
from models.kernels.triton.moe import SortedPairs, multiply_grouped, sort_pairs
from models.kernels.triton.tuned import GroupedTiles, grouped_tiles


class _Stack(NamedTuple):
    """The same matrix of all experts."""

    weights: torch.Tensor  # [E, N, K]
    biases: torch.Tensor | None  # [E, N]


class GroupedExperts(MixedExperts):
    """A mixture of experts, in one product for the first matrices of all experts, and one for the second.

    The experts' weights become views of one tensor for each product.
    """

    def __init__(self, layer: ExpertLayer, linear: LinearOperations) -> None:
        """layer: one that `takes_grouped` accepts."""
        super().__init__(layer)
        self._linear = linear
        dense = [expert.dense for expert in layer.experts if expert.dense is not None]
        self._first, self._second = (_stacked([each[place] for each in dense]) for place in (0, 1))

    def _prepare(self, x: torch.Tensor, norm: Prologue) -> torch.Tensor:
        return self._linear.prepare(x, norm, torch.float32)

    def _routed(self, rows: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        layer, dtype = self._layer, self._first.weights.dtype
        if not len(rows):
            return torch.zeros(inputs.shape, dtype=torch.float32, device=inputs.device)
        experts, factors = route(layer.spec, layer.router, rows)  # [T, chosen]
        chosen = experts.flatten()
        counts = torch.zeros_like(layer.rows_per_expert).scatter_add_(0, chosen, torch.ones_like(chosen))
        layer.rows_per_expert.add_(counts)
        tiles = grouped_tiles(len(chosen) / len(counts), dtype)
        pairs = sort_pairs(chosen, counts, tiles.rows)
        if layer.spec.scales_input:
            inputs = (inputs.unsqueeze(1) * factors.unsqueeze(2)).flatten(0, 1)  # a row for each pair
            outputs = self._computed(inputs.to(dtype), pairs, tiles, None)
        else:
            outputs = self._computed(inputs.to(dtype), pairs, tiles, factors.flatten())
        return outputs.unflatten(0, experts.shape).sum(dim=1)

    def _computed(
        self, inputs: torch.Tensor, pairs: SortedPairs, tiles: GroupedTiles, factors: torch.Tensor | None
    ) -> torch.Tensor:
        """Return every pair's output times its factor: [P, hidden] fp32."""
        (up, up_bias), (down, down_bias) = self._first, self._second
        inner = multiply_grouped(inputs, up, up_bias, pairs, tiles, out_dtype=up.dtype)
        inner = self._linear.prepare(inner, self._layer.experts[0].activation, up.dtype)
        return multiply_grouped(inner, down, down_bias, pairs, tiles, factors=factors, out_dtype=torch.float32)


def takes_grouped(layer: ExpertLayer) -> bool:
    """Whether GroupedExperts computes the layer: its experts have dense weights, and activations without parameters."""
    kinds = {expert.activation.row_input.kind for expert in layer.experts}
    return InputKind.XIELU not in kinds and all(expert.dense is not None for expert in layer.experts)


def _stacked(matrices: Sequence[DenseMatrix]) -> _Stack:
    # A tensor of the parameters' kind, whatever the mode of the step that runs the layer first.
    with torch.inference_mode(matrices[0].weight.is_inference()), torch.no_grad():
        weights = torch.stack([matrix.weight for matrix in matrices])
        for matrix, own in zip(matrices, weights, strict=True):
            matrix.weight.data = own
        biases = [matrix.bias for matrix in matrices if matrix.bias is not None]
        return _Stack(weights, torch.stack(biases) if biases else None)
