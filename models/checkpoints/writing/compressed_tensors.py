"""What compressed-tensors checkpoints hold of a quantised matrix, and the quantization_config that says so.

The reader's twin: models/checkpoints/quantised/compressed_tensors.py describes the layouts.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from models.quant.tensor import Encoding, QuantTensor

FORMATS = {
    Encoding.INT4: "pack-quantized",
    Encoding.INT8: "int-quantized",
    Encoding.FP8_E4M3: "float-quantized",
}
_BITS = {Encoding.INT4: 4, Encoding.INT8: 8, Encoding.FP8_E4M3: 8}


def tensors_of(module: str, quantised: QuantTensor) -> dict[str, torch.Tensor]:
    """The tensors of one module, by name. quantised: symmetric; INT4 by groups, the others with a scale a row."""
    assert quantised.zeros is None
    tensors = {f"{module}.weight_scale": quantised.scales}
    if quantised.encoding is Encoding.INT4:
        # Eight codes in an int32, the first in its lowest bits: our two in a byte, four bytes on.
        tensors[f"{module}.weight_packed"] = quantised.codes.contiguous().view(torch.int32)
        tensors[f"{module}.weight_shape"] = torch.tensor(quantised.shape, dtype=torch.int64)
    else:
        tensors[f"{module}.weight"] = quantised.codes
    return tensors


def quantization_config(
    encoding: Encoding, group_size_of: Mapping[str, int | None], ignored: Sequence[str]
) -> dict[str, Any]:
    """group_size_of: of each quantised module; None is a scale a row. ignored: linear modules that stay as they are."""
    sizes = sorted(set(group_size_of.values()), key=lambda size: size or 0, reverse=True)
    groups = {}
    for number, size in enumerate(sizes):
        modules = [module for module, own in group_size_of.items() if own == size]
        targets = ["Linear"] if len(sizes) == 1 else _patterns(modules)
        groups[f"group_{number}"] = {
            "targets": targets,
            "weights": _weights(encoding, size),
            "input_activations": None if encoding is Encoding.INT4 else _activations(encoding),
            "output_activations": None,
        }
    return {
        "quant_method": "compressed-tensors",
        "format": FORMATS[encoding],
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": list(ignored),
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def _weights(encoding: Encoding, group_size: int | None) -> dict[str, Any]:
    by = {"strategy": "channel", "group_size": None} if group_size is None else {"strategy": "group"}
    return {**_numbers(encoding), "group_size": group_size, **by, "dynamic": False, "observer": "minmax"}


def _activations(encoding: Encoding) -> dict[str, Any]:
    return {**_numbers(encoding), "strategy": "token", "dynamic": True}


def _numbers(encoding: Encoding) -> dict[str, Any]:
    kind = "float" if encoding is Encoding.FP8_E4M3 else "int"
    return {"num_bits": _BITS[encoding], "type": kind, "symmetric": True}


def _patterns(modules: Sequence[str]) -> list[str]:
    """Regular expressions that match these modules, one for all layers of a kind; "w1" and "w2" are two kinds."""
    return sorted({"re:" + r"\.".join(map(_part, module.split("."))) + "$" for module in modules})


def _part(name: str) -> str:
    return r"\d+" if name.isdigit() else re.escape(name)
