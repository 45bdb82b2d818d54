"""Conversion of a decoder's loaded weights to named tensors and records of how they are packed, and back."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from models.decoder import Decoder
from models.kernels.cpu.packed_weight import NativeWeight, PackedWeight
from models.kernels.formats import WeightFormat
from models.linear.dense import DenseLinearMethod
from models.linear.linear import Linear
from models.linear.native import NativeLinearMethod
from models.quant.scaled_weight import ScaledWeight
from models.quant.tensor import ActivationQuantization, Encoding
from models.weight_cache.index import WeightFileError
from models.weight_cache.weight_file import WeightFile

Record = dict[str, Any]  # of a packed weight, in JSON
Records = dict[str, list[tuple[str | None, Record]]]  # (shard, record) by layer, in the order of their rows


def collect_weights(decoder: Decoder) -> tuple[dict[str, torch.Tensor], Records] | None:
    """Return a decoder's weights by name, and records of the packed ones; None if torch dequantizes a layer."""
    tensors: dict[str, torch.Tensor] = {}
    records: Records = {}
    for name, module in decoder.named_modules():
        for parameter_name, parameter in _own_parameters(module).items():
            tensors[f"{name}.{parameter_name}"] = parameter.data
        if not isinstance(module, Linear) or isinstance(module.method, DenseLinearMethod):
            continue
        if not isinstance(module.method, NativeLinearMethod):
            return None
        weights = {shard: module.method.weights[shard] for shard in module.method.shards}
        records[name] = [(shard, _record(weight)) for shard, weight in weights.items()]
        for shard, weight in weights.items():
            tensors[f"{name}.{_data_name(shard)}"] = weight.data
            if isinstance(weight, ScaledWeight) and weight.permutation is not None:
                tensors[f"{name}.{_permutation_name(shard)}"] = weight.permutation
    return tensors, records


@torch.no_grad()
def restore_weights(decoder: Decoder, file: WeightFile) -> None:
    """Load a file from `collect_weights` into a decoder of the same structure, with allocated memory.

    Raises WeightFileError if a weight is missing or has another shape, before any change.
    """
    modules = dict(decoder.named_modules())
    _check_parameters(modules, file)
    layers = _native_layers(modules)
    weights = _native_weights(layers, file)
    for name, module in modules.items():
        for parameter_name, parameter in _own_parameters(module).items():
            parameter.data = file.tensors[f"{name}.{parameter_name}"]
    for name, (layer, method) in layers.items():
        method.attach(layer, weights[name])


def _check_parameters(modules: Mapping[str, nn.Module], file: WeightFile) -> None:
    for name, module in modules.items():
        for parameter_name, parameter in _own_parameters(module).items():
            found = file.tensors.get(f"{name}.{parameter_name}")
            if found is None or (found.shape, found.dtype) != (parameter.shape, parameter.dtype):
                raise WeightFileError(f"it is of another model ({name}.{parameter_name} is missing or differs)")


def _native_layers(modules: Mapping[str, nn.Module]) -> dict[str, tuple[Linear, NativeLinearMethod]]:
    return {
        name: (module, module.method)
        for name, module in modules.items()
        if isinstance(module, Linear) and isinstance(module.method, NativeLinearMethod)
    }


def _native_weights(
    layers: Mapping[str, tuple[Linear, NativeLinearMethod]], file: WeightFile
) -> dict[str, dict[str | None, NativeWeight]]:
    """Return the packed weights by layer and shard. Raises WeightFileError if they do not fit the layers."""
    records: Records = file.extra["records"]
    try:
        for name, (layer, method) in layers.items():
            needed = [(shard, layer.rows(shard)[1], layer.in_features) for shard in method.shards]
            if needed != [(shard, record["rows"], record["columns"]) for shard, record in records[name]]:
                raise WeightFileError("it is of another model (its linear layers differ)")
        return {
            name: {shard: _weight(file.tensors, name, shard, record) for shard, record in records[name]}
            for name in layers
        }
    except (KeyError, ValueError, TypeError):
        raise WeightFileError("it is of another model (its packed weights differ)") from None


def _own_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: each for name, each in module._parameters.items() if each is not None}


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
        record["format"],
        record["rows"],
        record["columns"],
        data,
        record["group_size"],
        Encoding[record["encoding"]],
        tensors[f"{name}.{_permutation_name(shard)}"] if record["is_permuted"] else None,
        ActivationQuantization[record["activation"]],
        record["input_scale"],
    )


def _data_name(shard: str | None) -> str:
    return f"packed_{shard or 'weight'}"


def _permutation_name(shard: str | None) -> str:
    return f"permutation_{shard or 'weight'}"
