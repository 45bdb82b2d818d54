"""GroupedExperts: a mixture of experts on a GPU, without a number that the host reads."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from models.kernels.coded_weight import CodedWeight, are_alike, divided, joined
from models.kernels.operands import CodedMatrix, DenseMatrix, ExpertLayer
from models.kernels.row_input import InputKind, Prologue
from models.kernels.torch.experts import MixedExperts, route
from models.kernels.torch.linear import LinearOperations
from models.kernels.triton.codes import MOST_CODED_ROWS, multiply_grouped_codes
from models.kernels.triton.moe import SortedPairs, multiply_grouped, sort_pairs
from models.kernels.triton.tuned import GroupedTiles, grouped_tiles


class _Stack(NamedTuple):
    """The same matrix of all experts: dense [E, N, K], or quantized, of E * N rows."""

    weights: torch.Tensor | CodedWeight
    biases: torch.Tensor | None  # [E, N]

    def multiply(
        self,
        x: torch.Tensor,
        pairs: SortedPairs,
        tiles: GroupedTiles,
        *,
        factors: torch.Tensor | None = None,
        out_dtype: torch.dtype,
    ) -> torch.Tensor:
        """Return every pair's product with its expert, plus its bias, times its factor: [P, N] in `out_dtype`."""
        if isinstance(self.weights, CodedWeight):
            return multiply_grouped_codes(
                x, self.weights, self.biases, pairs, tiles, factors=factors, out_dtype=out_dtype
            )
        return multiply_grouped(x, self.weights, self.biases, pairs, tiles, factors=factors, out_dtype=out_dtype)


class GroupedExperts(MixedExperts):
    """A mixture of experts, in one product for the first matrices of all experts, and one for the second.

    The experts' weights become views of one tensor for each product.
    """

    def __init__(self, layer: ExpertLayer, linear: LinearOperations) -> None:
        """layer: one that `takes_grouped` accepts."""
        super().__init__(layer)
        self._linear = linear
        dense = [expert.dense for expert in layer.experts if expert.dense is not None]
        coded = [expert.coded for expert in layer.experts if expert.coded is not None]
        self._is_coded = bool(coded)
        if coded:
            self._dtype = coded[0][0].dtype
            self._first, self._second = (_stacked_codes([each[place] for each in coded]) for place in (0, 1))
        else:
            self._dtype = dense[0][0].weight.dtype
            self._first, self._second = (_stacked([each[place] for each in dense]) for place in (0, 1))

    def _prepare(self, x: torch.Tensor, norm: Prologue) -> torch.Tensor:
        return self._linear.prepare(x, norm, torch.float32)

    def _routed(self, rows: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        layer, dtype = self._layer, self._dtype
        if not len(rows):
            return torch.zeros(inputs.shape, dtype=torch.float32, device=inputs.device)
        experts, factors = route(layer.spec, layer.router, rows)  # [T, chosen]
        chosen = experts.flatten()
        counts = torch.zeros_like(layer.rows_per_expert).scatter_add_(0, chosen, torch.ones_like(chosen))
        layer.rows_per_expert.add_(counts)
        tiles = grouped_tiles(len(chosen) / len(counts), dtype)
        if self._is_coded:
            tiles = tiles._replace(rows=min(tiles.rows, MOST_CODED_ROWS))
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
        inner = self._first.multiply(inputs, pairs, tiles, out_dtype=self._dtype)
        inner = self._linear.prepare(inner, self._layer.experts[0].activation, self._dtype)
        return self._second.multiply(inner, pairs, tiles, factors=factors, out_dtype=torch.float32)


def takes_grouped(layer: ExpertLayer) -> bool:
    """Whether GroupedExperts computes the layer: its experts have dense weights, or quantized ones that are alike, and
    activations without parameters."""
    kinds = {expert.activation.row_input.kind for expert in layer.experts}
    if InputKind.XIELU in kinds:
        return False
    if all(expert.dense is not None for expert in layer.experts):
        return True
    coded = [expert.coded for expert in layer.experts]
    matrices = [each for each in coded if each is not None]
    return len(matrices) == len(coded) and all(are_alike([each[place].weight for each in matrices]) for place in (0, 1))


def _stacked_codes(matrices: Sequence[CodedMatrix]) -> _Stack:
    weights = joined([matrix.weight for matrix in matrices])
    for matrix, own in zip(matrices, divided(weights, len(matrices)), strict=True):
        matrix.replace(own)
    biases = [matrix.bias for matrix in matrices if matrix.bias is not None]
    return _Stack(weights, torch.stack(biases) if biases else None)


def _stacked(matrices: Sequence[DenseMatrix]) -> _Stack:
    # A tensor of the parameters' kind, whatever the mode of the step that runs the layer first.
    with torch.inference_mode(matrices[0].weight.is_inference()), torch.no_grad():
        weights = torch.stack([matrix.weight for matrix in matrices])
        for matrix, own in zip(matrices, weights, strict=True):
            matrix.weight.data = own
        biases = [matrix.bias for matrix in matrices if matrix.bias is not None]
        return _Stack(weights, torch.stack(biases) if biases else None)
