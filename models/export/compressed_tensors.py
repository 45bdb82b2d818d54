"""Tensors of quantized matrices in compressed-tensors checkpoints, and the quantization_config of such a checkpoint.

The reader, models/checkpoints/quantized/compressed_tensors.py, describes the layouts.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from models.quant.tensor import Encoding, QuantTensor


@dataclass(frozen=True, slots=True)
class ExportFormat:
    """Format of written matrices: INT4, INT8 or FP8_E4M3. rounds_inputs: whether activations are quantized to 8 bits,
    too, with a scale per token."""

    encoding: Encoding
    rounds_inputs: bool = False

    @property
    def is_packed(self) -> bool:
        """Whether integers are packed into int32, as the compressed-tensors library does if only weights are
        quantized."""
        return self.encoding is not Encoding.FP8_E4M3 and not self.rounds_inputs

    @property
    def name(self) -> str:
        if self.is_packed:
            return "pack-quantized"
        return "float-quantized" if self.encoding is Encoding.FP8_E4M3 else "int-quantized"


def module_tensors(module: str, quantized: QuantTensor, output_format: ExportFormat) -> dict[str, torch.Tensor]:
    """Return the tensors of one module, by name. quantized: without zero points."""
    assert quantized.zeros is None
    tensors = {f"{module}.weight_scale": quantized.scales}
    if output_format.is_packed:
        tensors[f"{module}.weight_packed"] = _packed(quantized)
        tensors[f"{module}.weight_shape"] = torch.tensor(quantized.shape, dtype=torch.int64)
    else:
        tensors[f"{module}.weight"] = quantized.codes
    return tensors


def _packed(quantized: QuantTensor) -> torch.Tensor:
    """Pack codes to words [rows, words] int32, the first code in a word's lowest bits; codes count from 0."""
    codes = quantized.codes
    if quantized.encoding is Encoding.INT8:
        codes = codes.view(torch.uint8) ^ 0x80
    return torch.nn.functional.pad(codes, (0, -codes.shape[1] % 4)).contiguous().view(torch.int32)


def compressed_tensors_config(
    output_format: ExportFormat, group_sizes: Mapping[str, int | None], ignored: Sequence[str]
) -> dict[str, Any]:
    """Return the quantization_config of a checkpoint.

    group_sizes: group size of each quantized module; None: one scale per row. ignored: linear modules that are not
    quantized.
    """
    sizes = sorted(set(group_sizes.values()), key=lambda size: size or 0, reverse=True)
    activations = {**_numbers(output_format.encoding), "strategy": "token", "dynamic": True}
    groups = {}
    for number, size in enumerate(sizes):
        modules = [module for module, own in group_sizes.items() if own == size]
        targets = ["Linear"] if len(sizes) == 1 else _patterns(modules)
        groups[f"group_{number}"] = {
            "targets": targets,
            "weights": _weights(output_format.encoding, size),
            "input_activations": activations if output_format.rounds_inputs else None,
            "output_activations": None,
        }
    return {
        "quant_method": "compressed-tensors",
        "format": output_format.name,
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": list(ignored),
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def _weights(encoding: Encoding, group_size: int | None) -> dict[str, Any]:
    by = {"strategy": "channel", "group_size": None} if group_size is None else {"strategy": "group"}
    return {**_numbers(encoding), "group_size": group_size, **by, "dynamic": False, "observer": "minmax"}


def _numbers(encoding: Encoding) -> dict[str, Any]:
    kind = "float" if encoding is Encoding.FP8_E4M3 else "int"
    return {"num_bits": 4 if encoding is Encoding.INT4 else 8, "type": kind, "symmetric": True}


def _patterns(modules: Sequence[str]) -> list[str]:
    """Return regular expressions that match these modules; one expression covers a module of all layers."""
    names = (module.split(".") for module in modules)
    patterns = (r"\.".join(r"\d+" if name.isdigit() else re.escape(name) for name in parts) for parts in names)
    return sorted({f"re:{pattern}$" for pattern in patterns})
