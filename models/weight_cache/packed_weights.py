"""A decoder's loaded weights as tensors with a record of each packed one, and a decoder from these."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from models.decoder import Decoder
from models.kernels.packed_weight import NativeWeight, PackedWeight, WeightFormat
from models.linear.dense import Unquantized
from models.linear.linear import Linear
from models.linear.native import Packed
from models.quant.scaled_weight import ScaledWeight
from models.quant.tensor import ActivationQuantization, Encoding
from models.weight_cache.image import Image, ImageError

Record = dict[str, Any]  # of a packed weight, as JSON has it
Records = dict[str, list[tuple[str | None, Record]]]  # a layer's name -> (shard, record), in the order of their rows


def weights_of(decoder: Decoder) -> tuple[dict[str, torch.Tensor], Records] | None:
    """All that loading has filled in, or None where a layer holds codes that torch dequantizes: these are as stored."""
    tensors: dict[str, torch.Tensor] = {}
    records: Records = {}
    for name, module in decoder.named_modules():
        for parameter_name, parameter in _own_parameters(module).items():
            tensors[f"{name}.{parameter_name}"] = parameter.data
        if not isinstance(module, Linear) or isinstance(module.scheme, Unquantized):
            continue
        if not isinstance(module.scheme, Packed):
            return None
        weights = {shard: module.scheme.weights[shard] for shard in module.scheme.shards}
        records[name] = [(shard, _record(weight)) for shard, weight in weights.items()]
        for shard, weight in weights.items():
            tensors[f"{name}.{_data_name(shard)}"] = weight.data
            if isinstance(weight, ScaledWeight) and weight.permutation is not None:
                tensors[f"{name}.{_permutation_name(shard)}"] = weight.permutation
    return tensors, records


@torch.no_grad()
def restore(decoder: Decoder, image: Image) -> None:
    """Put an image of `weights_of` in place, in a decoder that is laid out and allocated as that one was.

    Raises ImageError if something is missing or has another shape, before anything is changed.
    """
    records: Mapping[str, Any] = image.extra
    modules = dict(decoder.named_modules())
    missing = [
        f"{name}.{each}"
        for name, module in modules.items()
        for each, parameter in _own_parameters(module).items()
        if not _is_alike(image.tensors.get(f"{name}.{each}"), parameter)
    ]
    packed = {
        name: module.scheme
        for name, module in modules.items()
        if isinstance(module, Linear) and isinstance(module.scheme, Packed)
    }
    if missing:
        raise ImageError(f"it is of another model ({missing[0]} is missing or differs)")
    try:
        if any(_shapes_of(modules[name]) != _shapes(records[name]) for name in packed):
            raise ImageError("it is of another model (its linear layers differ)")
        weights = {
            name: {shard: _weight(image.tensors, name, shard, record) for shard, record in records[name]}
            for name in packed
        }
    except (KeyError, ValueError, TypeError):
        raise ImageError("it is of another model (its packed weights differ)") from None
    for name, module in modules.items():
        for each, parameter in _own_parameters(module).items():
            parameter.data = image.tensors[f"{name}.{each}"]
    for name, scheme in packed.items():
        layer = modules[name]
        assert isinstance(layer, Linear)
        scheme.take(layer, weights[name])


def _shapes_of(layer: nn.Module) -> list[tuple[str | None, int, int]]:
    """(shard, rows, columns) of each packed weight that a layer wants."""
    assert isinstance(layer, Linear)
    assert isinstance(layer.scheme, Packed)
    return [(shard, layer.rows(shard)[1], layer.in_features) for shard in layer.scheme.shards]


def _shapes(records: Sequence[tuple[str | None, Record]]) -> list[tuple[str | None, int, int]]:
    return [(shard, record["rows"], record["columns"]) for shard, record in records]


def _own_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: each for name, each in module._parameters.items() if each is not None}


def _is_alike(found: torch.Tensor | None, parameter: torch.Tensor) -> bool:
    return found is not None and (found.shape, found.dtype) == (parameter.shape, parameter.dtype)


def _record(weight: NativeWeight) -> Record:
    common = {"rows": weight.rows, "columns": weight.columns}
    if isinstance(weight, PackedWeight):
        return {"gguf": weight.format.name, **common}
    assert isinstance(weight, ScaledWeight)
    return {
        "encoding": weight.encoding.name,
        "format": weight.format,
        **common,
        "group_size": weight.group_size,
        "is_permuted": weight.permutation is not None,
        "activation": weight.activation.name,
        "input_scale": weight.input_scale,
    }


def _weight(tensors: Mapping[str, torch.Tensor], name: str, shard: str | None, record: Record) -> NativeWeight:
    data = tensors[f"{name}.{_data_name(shard)}"]
    if "gguf" in record:
        return PackedWeight(WeightFormat[record["gguf"]], record["rows"], record["columns"], data)
    return ScaledWeight(
        Encoding[record["encoding"]],
        record["format"],
        record["rows"],
        record["columns"],
        record["group_size"],
        data,
        tensors[f"{name}.{_permutation_name(shard)}"] if record["is_permuted"] else None,
        ActivationQuantization[record["activation"]],
        record["input_scale"],
    )


def _data_name(shard: str | None) -> str:
    return f"packed_{shard or 'weight'}"


def _permutation_name(shard: str | None) -> str:
    return f"permutation_{shard or 'weight'}"
