"""LoRA pairs of a decoder's linear layers, as trainable parameters: y = W x + scale * B A x."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from models.decoder import Decoder
from models.errors import ModelError, SettingError
from models.families.module_names import NamedLinear
from models.families.name_map import Rules
from models.families.transforms import transpose
from models.kernels.row_input import Prologue
from models.linear.linear import Linear
from models.linear.method import LinearLayer, LinearMethod, ParameterSpec
from models.training.frozen_weight import FrozenWeight, multiply_frozen
from models.training.trainable_adapter import Pair, Piece, TrainableAdapter
from models.training.trainable_layers import layer_kinds, trainable_layers


@dataclass(frozen=True, slots=True)
class LoraShape:
    """Rank, alpha and target layers of a LoRA adapter.

    targets: last parts of layers' names ("q_proj"); empty: every linear layer except experts, embeddings and head.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...] = ()

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


class TrainableMethod(LinearMethod):
    """A layer's frozen serving method, with a gradient for its input, and the layer's LoRA pairs, if it is trained.

    No result overwrites values that a gradient needs: a residual is added in new memory.
    """

    name = "trainable"

    def __init__(self, layer: Linear, adapter: TrainableAdapter | None, dtype: torch.dtype) -> None:
        """layer: a layer that still has its serving method. dtype: the dtype of the decoder."""
        self.frozen = layer.method
        self.weight = FrozenWeight(layer, layer.method, dtype)
        self.bias_dtype = self.frozen.bias_dtype
        self.adapter = adapter
        self.is_adapted = True  # False: the layer computes without the pairs

    def parameters(self, in_features: int, out_features: int) -> tuple[ParameterSpec, ...]:
        return self.frozen.parameters(in_features, out_features)

    def load(self, *_: object) -> None:
        raise AssertionError("a layer is trained after it is loaded")

    def apply(
        self,
        x: torch.Tensor,
        layer: LinearLayer,
        prologue: Prologue,
        residual: torch.Tensor | None,
        out_dtype: torch.dtype | None,
    ) -> torch.Tensor:
        has_delta = self.adapter is not None and self.is_adapted
        if not has_delta and not torch.is_grad_enabled():
            return self.frozen.apply(x, layer, prologue, residual, out_dtype)
        rows = prologue(x)
        if out_dtype is None:
            out_dtype = x.dtype if residual is None else residual.dtype
        if has_delta:
            assert self.adapter is not None
            y = self.adapter.product(rows, self.weight, out_dtype)
        else:
            y = multiply_frozen(rows, self.weight, out_dtype)
        return y if residual is None else residual + y

    def look_up(self, ids: torch.Tensor, layer: LinearLayer) -> torch.Tensor:
        return self.frozen.look_up(ids, layer)

    def read_rows(self, layer: LinearLayer, first: int, count: int, dtype: torch.dtype) -> torch.Tensor:
        return self.frozen.read_rows(layer, first, count, dtype)

    def format_of(self, shard: str | None) -> str:
        return self.frozen.format_of(shard)


class Lora:
    """All LoRA pairs of a decoder in training.

    Their parameters are views of one tensor, `values`, and their gradients of `gradients`, both [n] fp32, so that one
    operation updates all parameters or computes the norm of all gradients.
    """

    def __init__(self, decoder: Decoder, rules: Rules, shape: LoraShape, seed: int) -> None:
        """Give every linear layer of `decoder` a gradient for its input, and the targets of `shape` trainable pairs.

        rules: the family's rules for tensor names in safetensors. As in PEFT, A is random, by `seed`, and B is zero.
        Raises SettingError for targets that the model does not have.
        """
        self.shape = shape
        self.is_transposed = False  # whether transformers stores the matrices as [in, out], which PEFT must know
        self.has_experts = any(layer.experts is not None for layer in decoder.spec.layers)
        layers = {name: module for name, module in decoder.named_modules() if isinstance(module, Linear)}
        named = _select(trainable_layers(decoder, rules), shape.targets)
        sizes = {name: _num_values(layers[name], each, shape.rank) for name, each in named.items()}
        self.values = torch.zeros(sum(sizes.values()))
        self.gradients = torch.zeros_like(self.values)
        self._end = 0
        generator = torch.Generator().manual_seed(seed)
        self._adapters: dict[str, TrainableAdapter] = {}
        for name, linears in named.items():
            self.is_transposed |= any(each.transform is transpose for linear in linears for each in linear.destinations)
            self._adapters[name] = self._make(layers[name], linears, decoder, generator)
        self.methods: list[tuple[Linear, TrainableMethod]] = []  # of all linear layers of the decoder, in training
        for name, layer in layers.items():
            method = TrainableMethod(layer, self._adapters.get(name), decoder.compute_dtype)
            layer.method = method
            self.methods.append((layer, method))

    @property
    def is_adapted(self) -> bool:
        """Whether the decoder applies the LoRA pairs; without them it computes as the base model."""
        return self.methods[0][1].is_adapted

    @is_adapted.setter
    def is_adapted(self, value: bool) -> None:
        for _, method in self.methods:
            method.is_adapted = value

    def matrices(self) -> Iterator[Pair]:
        """Yield copies of every pair's matrices, in PEFT's layout."""
        for adapter in self._adapters.values():
            yield from adapter.matrices()

    def set_matrices(self, name: str, a: torch.Tensor, b: torch.Tensor) -> None:
        """Initialize the pair `name` with trained matrices.

        Raises ModelError if there is no such pair or its shapes differ.
        """
        for adapter in self._adapters.values():
            if name in adapter.names:
                adapter.set_matrices(name, a, b)
                return
        raise ModelError(f"the adapter has a pair for {name}, which is not trained here; train with the same targets")

    def _make(
        self, layer: Linear, linears: Sequence[NamedLinear], decoder: Decoder, generator: torch.Generator
    ) -> TrainableAdapter:
        rank, columns = self.shape.rank, layer.in_features
        a = self._take(len(linears) * rank, columns)
        bound = columns**-0.5  # PEFT's: kaiming_uniform with a = sqrt(5)
        with torch.no_grad():
            a.uniform_(-bound, bound, generator=generator)
        pieces = []
        for index, linear in enumerate(linears):
            spans = [layer.rows(each.shard) for each in linear.destinations]
            orders = linear.row_orders(decoder.spec, sum(count for _, count in spans))
            for (first, count), order in zip(spans, orders, strict=True):
                pieces.append(Piece(first, count, index, self._take(count, rank), order))
        pieces.sort(key=lambda piece: piece.first)
        return TrainableAdapter([linear.name for linear in linears], a, pieces, rank, self.shape.scale)

    def _take(self, *shape: int) -> torch.Tensor:
        start, self._end = self._end, self._end + shape[0] * shape[1]
        parameter = torch.nn.Parameter(self.values[start : self._end].view(shape))
        parameter.grad = self.gradients[start : self._end].view(shape)  # gradients are added to it in place
        return parameter


def frozen_weight(layer: Linear) -> FrozenWeight:
    """Return the frozen weight of a linear layer whose decoder has a Lora."""
    assert isinstance(layer.method, TrainableMethod)
    return layer.method.weight


def _select(named: dict[str, list[NamedLinear]], targets: Sequence[str]) -> dict[str, list[NamedLinear]]:
    known = layer_kinds(named)
    if unknown := [target for target in targets if target not in known]:
        raise SettingError(
            f"the model has no linear layers called {unknown[0]} that can be trained; it has {', '.join(known)}"
        )
    if not targets:
        return named
    chosen = {module: [linear for linear in linears if linear.kind in targets] for module, linears in named.items()}
    return {module: linears for module, linears in chosen.items() if linears}


def values_per_rank(decoder: Decoder, rules: Rules, targets: Sequence[str]) -> int:
    """Return how many numbers a Lora of rank 1 trains; proportional to the rank. decoder: also one without weights.

    Raises SettingError for targets that the model does not have.
    """
    layers = {name: module for name, module in decoder.named_modules() if isinstance(module, Linear)}
    named = _select(trainable_layers(decoder, rules), targets)
    return sum(_num_values(layers[name], linears, 1) for name, linears in named.items())


def _num_values(layer: Linear, linears: Sequence[NamedLinear], rank: int) -> int:
    num_rows = sum(layer.rows(each.shard)[1] for linear in linears for each in linear.destinations)
    return rank * (len(linears) * layer.in_features + num_rows)
