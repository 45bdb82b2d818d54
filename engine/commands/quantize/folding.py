"""Folding: equalization factors on a matrix's columns, undone in the norm or matrix before, so the model is unchanged.

norm -> qkv,  norm -> gate and up     the norm's weight is divided, where norms come before matrices
up -> down                            up's rows are divided, since act(gate) * up is linear in up
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from models.architecture.feed_forward import MLPSpec
from models.architecture.layer import LayerSpec, NormPlacement
from models.layers.decoder_layer import DecoderLayer
from models.layers.mlp import MLP
from models.layers.norm import Norm
from models.linear.linear import Linear
from models.loading.assign import Assignment

# (name of a linear layer in the decoder layer, the layer) -> factors of its columns, [columns]
ChooseFactors = Callable[[str, Linear], torch.Tensor]


class Folding:
    """Equalization factors of a decoder layer's matrices. A matrix whose inputs cannot be rescaled has none."""

    def __init__(self) -> None:
        self.column_factors: dict[str, torch.Tensor] = {}  # name in the decoder layer -> [columns]
        self._row_factors: dict[tuple[str, str | None], torch.Tensor] = {}  # (name, shard) -> [rows]

    def folded(self, values: torch.Tensor, name: str, assignment: Assignment) -> torch.Tensor:
        """Return a stored tensor of the module `name` with the module's row and column factors applied."""
        destination = assignment.destination
        row_factors = self._row_factors.get((name, destination.shard))
        if row_factors is not None:
            values = values * row_factors.view(-1, *[1] * (values.dim() - 1))
        if destination.parameter == "weight" and name in self.column_factors:
            values = values * self.column_factors[name]
        return values

    def multiply_weights(self, layer: nn.Module) -> None:
        for name, factors in self.column_factors.items():
            _linear(layer, name).weight.mul_(factors)
        for (name, shard), factors in self._row_factors.items():
            if shard is not None:
                linear = _linear(layer, name)
                linear.weight.narrow(0, *linear.rows(shard)).mul_(factors[:, None])

    def multiply_outputs(self, name: str, linear: Linear, outputs: torch.Tensor) -> None:
        """Apply the row factors of the linear layer `name`, in place, to outputs [T, out] recorded before folding."""
        for (of, shard), factors in self._row_factors.items():
            if of == name and shard is not None:
                outputs.narrow(1, *linear.rows(shard)).mul_(factors)

    def fold_norm(self, norm_name: str, norm: Norm, name: str, factors: torch.Tensor, dtype: torch.dtype) -> None:
        """Divide a norm's weight by the column factors of the matrix `name` that reads its output. The divided weight
        is rounded to `dtype`, and the column factors are corrected for the rounding."""
        assert norm.weight is not None
        weight = norm.weight.to(torch.float32)
        divided = (weight / factors).to(dtype).to(torch.float32)
        is_live = (weight != 0) & (divided != 0)
        share = torch.where(is_live, divided / torch.where(is_live, weight, 1.0), 1.0)
        self._row_factors[norm_name, None] = share
        self.column_factors[name] = 1.0 / share
        for parameter in norm.parameters():
            parameter.mul_(share)

    def fold_up(self, mlp: MLP, factors: torch.Tensor) -> None:
        """Divide the rows of the up projection by the column factors of the down projection."""
        self._row_factors["mlp.gate_up", "up"] = 1.0 / factors
        self.column_factors["mlp.down"] = factors
        gate_up, _ = mlp.linears
        if gate_up.bias is not None:
            gate_up.bias.narrow(0, *gate_up.rows("up")).div_(factors)


def fold(
    layer: nn.Module,
    spec: LayerSpec,
    index: int,
    plan: Sequence[Assignment],
    choose_factors: ChooseFactors,
    dtype: torch.dtype,
) -> Folding:
    """Choose column factors for the matrices of layer `index`, and divide the norms and matrices before them in memory.

    plan: this layer's assignments. dtype: the dtype in which norms are stored.
    """
    folding = Folding()
    if not isinstance(layer, DecoderLayer):  # branches that share a norm
        return folding
    assignments = {
        (each.destination.module.removeprefix(f"layers.{index}."), each.destination.shard): each
        for each in plan
        if each.destination.parameter == "weight"
    }
    pairs = []
    if layer.beside is None and not _has(layer, "attn.indexer"):  # else several matrices read the norm's output
        pairs.append(("attn_norm", layer.attn_norm, "attn.qkv"))
    if isinstance(layer.mlp, MLP):
        pairs.append(("mlp_norm", layer.mlp_norm, "mlp.gate_up" if layer.mlp.is_gated else "mlp.up"))
    if spec.placement not in (NormPlacement.PRE, NormPlacement.SANDWICH):
        pairs = []  # no matrix reads a norm's output
    if layer.laurel is not None:  # it reads what attention reads
        pairs = [pair for pair in pairs if pair[0] != "attn_norm"]
    for norm_name, norm, name in pairs:
        if isinstance(norm, Norm) and _is_as_stored(assignments, norm_name, None) and _has(layer, name):
            folding.fold_norm(norm_name, norm, name, choose_factors(name, _linear(layer, name)), dtype)
    # Neither a limit nor a norm between the matrices lets a factor of `up` through.
    is_linear_in_up = isinstance(spec.mlp, MLPSpec) and spec.mlp.clamp is None and spec.mlp.inner_norm is None
    mlp = layer.mlp if isinstance(layer.mlp, MLP) and layer.mlp.is_gated else None
    if mlp is not None and is_linear_in_up and _is_as_stored(assignments, "mlp.gate_up", "up"):
        folding.fold_up(mlp, choose_factors("mlp.down", mlp.down))
    return folding


def _is_as_stored(assignments: Mapping[tuple[str, str | None], Assignment], name: str, shard: str | None) -> bool:
    """Return whether this shard, or the whole matrix, is one checkpoint tensor that is loaded without a transform."""
    assignment = assignments.get((name, shard))
    return assignment is not None and assignment.destination.transform is None


def _has(layer: nn.Module, name: str) -> bool:
    return any(known == name for known, _ in layer.named_modules())


def _linear(layer: nn.Module, name: str) -> Linear:
    linear = layer.get_submodule(name)
    assert isinstance(linear, Linear)
    return linear
