"""Linear layers of transformers' models: detection of those that headrace's own can replace, and their replacements."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from models.kernels.row_input import IDENTITY
from models.linear.embedding import Embedding
from models.linear.linear import Linear
from models.linear.method import LinearMethod
from models.transformers_backend.interface import CurrentStep

# Fields for the number of experts. A layer with as many outputs chooses experts, one with a single output is a gate:
# small layers, whose rounding would affect all that follows.
_EXPERT_FIELDS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True, slots=True)
class ReplaceableLayers:
    """Names of layers that headrace's own can replace; None for none.

    linears: linear layers. embedding: the embedding of tokens. tied_head: the output layer that has its weight.
    by_rows: layers whose inputs are the rows of the batch, one by one, so that each row may have its adapter.
    """

    linears: tuple[str, ...]
    embedding: str | None
    tied_head: str | None
    by_rows: frozenset[str]

    @property
    def names(self) -> list[str]:
        """Names of all layers."""
        return [*self.linears, *(name for name in (self.embedding, self.tied_head) if name is not None)]


class _ObservedLinear(nn.Linear):
    """A linear layer that computes only shapes, and notes whether code calls it and whether it reads its weight."""

    is_called = False
    is_read = False
    num_rows = 0  # of the last call

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        self.is_called = True
        self.num_rows = input.shape[:-1].numel()
        if input.shape[-1] != self.in_features:
            raise RuntimeError(f"a layer of {self.in_features} inputs gets {input.shape[-1]}")
        return input.new_empty((*input.shape[:-1], self.out_features))

    def __getattr__(self, name: str) -> Any:  # where torch keeps parameters
        if name in ("weight", "bias"):
            self.is_read = True
        return super().__getattr__(name)


class _ObservedTable(nn.Embedding):
    """An embedding that computes only shapes, and notes whether code calls it and whether it reads its weight."""

    is_called = False
    is_read = False

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        self.is_called = True
        weight = self._parameters["weight"]
        assert weight is not None
        return torch.empty((*input.shape, self.embedding_dim), dtype=weight.dtype, device="meta")

    def __getattr__(self, name: str) -> Any:
        if name == "weight":
            self.is_read = True
        return super().__getattr__(name)


def observe_linears(model: PreTrainedModel) -> None:
    """Prepare a model without weights, so that `replaceable_layers` finds its layers after a run."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = _ObservedLinear
        elif type(module) is nn.Embedding:
            module.__class__ = _ObservedTable


def replaceable_layers(model: PreTrainedModel, num_rows: int) -> ReplaceableLayers:
    """Find the layers that the run of an observed model only called, so that no code needs their weights.

    num_rows: of the run.
    """
    users = defaultdict(list)
    for name, module in model.named_modules():
        if (weight := module._parameters.get("weight")) is not None:
            users[id(weight)].append(name)
    in_fp32 = (*(model._keep_in_fp32_modules or ()), *(model._keep_in_fp32_modules_strict or ()))
    num_experts = {count for field in _EXPERT_FIELDS if (count := getattr(model.config, field, None))}
    found = []
    for name, module in model.named_modules():
        if not (isinstance(module, _ObservedLinear) and module.is_called and not module.is_read):
            continue
        if any(part in name for part in in_fp32) or module.out_features in (1, *num_experts):
            continue
        found.append(name)
    linears = tuple(name for name in found if len(users[id(_weight(model, name))]) == 1)
    by_rows = frozenset(name for name in found if model.get_submodule(name).num_rows == num_rows)
    table = model.get_input_embeddings()
    if not (isinstance(table, _ObservedTable) and table.is_called and not table.is_read):
        return ReplaceableLayers(linears, None, None, by_rows)
    (embedding,) = (name for name, module in model.named_modules() if module is table)
    others = [name for name in users[id(_weight(model, embedding))] if name != embedding]
    if not others:
        return ReplaceableLayers(linears, embedding, None, by_rows)
    if len(others) > 1 or others[0] not in found or model.get_submodule(others[0])._parameters["bias"] is not None:
        return ReplaceableLayers(linears, None, None, by_rows)
    return ReplaceableLayers(linears, embedding, others[0], by_rows)


def _weight(model: nn.Module, name: str) -> torch.Tensor | None:
    return model.get_submodule(name)._parameters["weight"]


class ForeignLinear(nn.Module):
    """A linear layer of headrace's in the place of torch's, for rows of any leading shape."""

    def __init__(self, linear: Linear, out_dtype: torch.dtype | None = None, *, is_adaptable: bool) -> None:
        """out_dtype: of the results, by default the rows'. is_adaptable: whether the rows are the batch's."""
        super().__init__()
        self.linear = linear
        self.is_adaptable = is_adaptable
        self.step = CurrentStep()  # the decoder's own, once there is one
        self._out_dtype = out_dtype
        self.in_features, self.out_features = linear.in_features, linear.out_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        slots = self.step.adapter_slots if self.is_adaptable else None
        rows, linear, out_dtype = x.reshape(-1, self.in_features), self.linear, self._out_dtype or x.dtype
        if slots is None:  # without the calls in between
            y = linear.method.apply(rows, linear, IDENTITY, None, out_dtype)
        else:
            y = linear(rows, out_dtype=out_dtype, adapter_slots=slots)
        return y.view(*x.shape[:-1], self.out_features)


class ForeignEmbedding(nn.Module):
    """An embedding of headrace's in the place of torch's, whose table may also be the output layer's weight."""

    def __init__(self, linear: Embedding, padding_idx: int | None, dtype: torch.dtype) -> None:
        """dtype: of the rows that are returned."""
        super().__init__()
        self.linear = linear
        self.step = CurrentStep()  # the decoder's own, once there is one
        self.padding_idx = padding_idx
        self.num_embeddings, self.embedding_dim = linear.out_features, linear.in_features
        self._dtype = dtype

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        rows = self.linear.look_up(ids.reshape(-1), self.step.adapter_slots)
        return rows.to(self._dtype).view(*ids.shape, self.embedding_dim)


def replace_layers(model: PreTrainedModel, layers: ReplaceableLayers, method: LinearMethod, dtype: torch.dtype) -> None:
    """Replace a model's layers by headrace's own, without memory. method: of all layers at first.

    The output layer returns fp32, since kernels compute that anyway.
    """
    head = model.get_output_embeddings()
    for name in layers.linears:
        old = model.get_submodule(name)
        assert isinstance(old, nn.Linear)
        has_bias = old._parameters["bias"] is not None
        linear = Linear(old.in_features, old.out_features, has_bias=has_bias, method=method)
        out_dtype = torch.float32 if old is head else None
        model.set_submodule(name, ForeignLinear(linear, out_dtype, is_adaptable=name in layers.by_rows))
    if layers.embedding is None:
        return
    old = model.get_submodule(layers.embedding)
    assert isinstance(old, nn.Embedding)
    table = Embedding(old.num_embeddings, old.embedding_dim, method=method)
    model.set_submodule(layers.embedding, ForeignEmbedding(table, old.padding_idx, dtype))
    if layers.tied_head is not None:
        is_adaptable = layers.tied_head in layers.by_rows
        model.set_submodule(layers.tied_head, ForeignLinear(table, torch.float32, is_adaptable=is_adaptable))


def adapter_modules(model: PreTrainedModel) -> dict[str, tuple[str, Linear]]:
    """Return the layers that adapters may change: (the module's name for adapters, the layer), by the model's names.

    The output layer and the embedding are called "head" and "embed" for adapters, as in other decoders.
    """
    head = model.get_output_embeddings()
    found: dict[str, tuple[str, Linear]] = {}
    for name, module in model.named_modules():
        if isinstance(module, ForeignLinear) and module.is_adaptable:
            found[name] = ("head" if module is head else name, module.linear)
        elif isinstance(module, ForeignEmbedding):
            found[name] = ("embed", module.linear)
    return found
