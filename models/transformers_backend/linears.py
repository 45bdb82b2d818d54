"""Linear layers of transformers' models: detection of those that headrace's own can replace, and their replacements."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from models.linear.embedding import Embedding
from models.linear.linear import Linear
from models.linear.method import LinearMethod

# Fields for the number of experts. A layer with as many outputs chooses experts, one with a single output is a gate:
# small layers, whose rounding would affect all that follows.
_EXPERT_FIELDS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True, slots=True)
class ReplaceableLayers:
    """Names of layers that headrace's own can replace.

    linears: linear layers. tables: embeddings of tokens, by the name of the output layer that has the same weight.
    """

    linears: tuple[str, ...]
    tables: Mapping[str, str]


class _ObservedLinear(nn.Linear):
    """A linear layer that computes only shapes, and notes whether code calls it and whether it reads its weight."""

    is_called = False
    is_read = False

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        self.is_called = True
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


def replaceable_layers(model: PreTrainedModel) -> ReplaceableLayers:
    """Find the layers that the run of an observed model only called, so that no code needs their weights."""
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
    linears = [name for name in found if len(users[id(_weight(model, name))]) == 1]
    tables = {}
    for name in found:
        others = [other for other in users[id(_weight(model, name))] if other != name]
        if len(others) == 1 and _is_tied_table(model, others[0], name):
            tables[name] = others[0]
    return ReplaceableLayers(tuple(linears), tables)


def _weight(model: nn.Module, name: str) -> torch.Tensor | None:
    return model.get_submodule(name)._parameters["weight"]


def _is_tied_table(model: nn.Module, name: str, linear: str) -> bool:
    """Whether a module is an embedding that code only calls, and that can be the weight of a linear layer, too."""
    table = model.get_submodule(name)
    has_bias = model.get_submodule(linear)._parameters["bias"] is not None
    return isinstance(table, _ObservedTable) and table.is_called and not table.is_read and not has_bias


class ForeignLinear(nn.Module):
    """A linear layer of headrace's in the place of torch's, for rows of any leading shape."""

    def __init__(self, linear: Linear, out_dtype: torch.dtype | None = None) -> None:
        """out_dtype: of the results, by default that of the rows."""
        super().__init__()
        self.linear = linear
        self._out_dtype = out_dtype
        self.in_features, self.out_features = linear.in_features, linear.out_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x.reshape(-1, self.in_features), out_dtype=self._out_dtype or x.dtype)
        return y.view(*x.shape[:-1], self.out_features)


class ForeignEmbedding(nn.Module):
    """An embedding of headrace's in the place of torch's, whose table is also the output layer's weight."""

    def __init__(self, linear: Embedding, padding_idx: int | None, dtype: torch.dtype) -> None:
        """dtype: of the rows that are returned."""
        super().__init__()
        self.linear = linear
        self.padding_idx = padding_idx
        self.num_embeddings, self.embedding_dim = linear.out_features, linear.in_features
        self._dtype = dtype

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.linear.look_up(ids.reshape(-1)).to(self._dtype).view(*ids.shape, self.embedding_dim)


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
        model.set_submodule(name, ForeignLinear(linear, torch.float32 if old is head else None))
    for output_layer, name in layers.tables.items():
        old = model.get_submodule(name)
        assert isinstance(old, nn.Embedding)
        table = Embedding(old.num_embeddings, old.embedding_dim, method=method)
        model.set_submodule(name, ForeignEmbedding(table, old.padding_idx, dtype))
        model.set_submodule(output_layer, ForeignLinear(table, torch.float32))
