"""GGUF checkpoints: one file or the parts of a split file, dequantized tensor by tensor."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from models.checkpoints.base import StoredTensor
from models.checkpoints.gguf.array import GGUFArray
from models.checkpoints.gguf.blocks import GGUFRows
from models.checkpoints.gguf.codes import stored_codes, wider_format
from models.checkpoints.gguf.header import GGUFHeader, read_gguf_header
from models.checkpoints.gguf.matrix_scales import with_matrix_scales
from models.errors import CheckpointError, UnsupportedModelError
from models.kernels.cpu.packed_weight import dequantize_natively
from models.kernels.formats import NotFiniteError, WeightFormat

_PLAIN = {
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
    GGMLQuantizationType.F64: torch.float64,
}
_WEIGHTS_IN_METADATA = ("xielu.alpha_p", "xielu.alpha_n", "xielu.beta", "xielu.eps")  # arrays by layer
_CHUNK_ELEMENTS = 1 << 20  # dequantized at a time: the fp32 temporaries stay in the caches


class GGUFCheckpoint:
    """Tensors of all parts under their GGUF names, and the metadata of the first part."""

    def __init__(self, paths: Sequence[Path]) -> None:
        headers = [read_gguf_header(path) for path in paths]
        self.path = headers[0].path
        self.metadata = headers[0].metadata
        self.dtype = torch.bfloat16  # of quantized weights when dequantized: see resolve_dtype's "auto"
        self.tensors: dict[str, StoredTensor] = {}
        _check_parts(headers)
        for header in headers:
            mapped = np.memmap(header.path, np.uint8, mode="c")  # copy on write: torch wants writable memory
            for tensor in header.tensors:
                if tensor.name in self.tensors:
                    other = self.tensors[tensor.name].file
                    raise CheckpointError(
                        f"tensor {tensor.name!r} is in {other} and in {header.path}; fetch them again"
                    )
                data = mapped[tensor.start : tensor.start + tensor.num_bytes]
                self.tensors[tensor.name] = _described(tensor.name, tensor.shape, tensor.type, data, header.path)
        self.tensors = with_matrix_scales(self.tensors)
        self.tensors |= _numbers_of_layers(self.metadata, self.path)
        for tensor_type in {tensor.type for header in headers for tensor in header.tensors}:
            _check_dequantizable(self.path, tensor_type)


def _described(
    name: str, shape: tuple[int, ...], tensor_type: GGMLQuantizationType, data: np.ndarray, path: Path
) -> StoredTensor:
    """Return a tensor's description. data: the tensor's bytes, memory-mapped."""

    def part(index: int) -> StoredTensor:
        return _described(f"{name}[{index}]", shape[1:], tensor_type, data.reshape(shape[0], -1)[index], path)

    def not_finite() -> CheckpointError:
        return CheckpointError(f"{path}: {name!r} has scales that are not finite; fetch the file again")

    entry = (name, shape, tensor_type.name, data.nbytes, path)
    if tensor_type in _PLAIN:
        plain = torch.from_numpy(data).view(_PLAIN[tensor_type]).view(shape)
        return StoredTensor(*entry, read=plain.to, part=part)
    rows = data.reshape(math.prod(shape[:-1]), -1)
    packed = torch.from_numpy(rows)
    return StoredTensor(
        *entry,
        read=lambda dtype: _dequantize(packed, shape, tensor_type, dtype, not_finite),
        read_blocks=lambda: packed,
        part=part,
        quantized=stored_codes(tensor_type, shape, packed, not_finite),
        wider_format=wider_format(tensor_type),
    )


def _numbers_of_layers(metadata: Mapping[str, Any], path: Path) -> dict[str, StoredTensor]:
    """Return metadata that are weights as tensors: xIELU's numbers of each layer, such as "blk.0.xielu.beta"."""
    tensors = {}
    for key in _WEIGHTS_IN_METADATA:
        values = metadata.get(key)
        values = values.values() if isinstance(values, GGUFArray) else values
        for layer, value in enumerate(values if isinstance(values, list) else ()):
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise CheckpointError(
                    f"{path}: {key} has {value!r}, which is not a finite number; fetch the file again"
                )
            read = torch.tensor([value], dtype=torch.float32).to
            name = f"blk.{layer}.{key}"
            tensors[name] = StoredTensor(name, (1,), "F32", 4, path, read=read)
    return tensors


def _dequantize(
    rows: torch.Tensor,
    shape: tuple[int, ...],
    tensor_type: GGMLQuantizationType,
    dtype: torch.dtype,
    not_finite: Callable[[], CheckpointError],
) -> torch.Tensor:
    """Dequantize rows [rows, bytes per row]. not_finite: makes the error for scales that are not finite."""
    if tensor_type.name in WeightFormat.__members__:
        try:
            native = dequantize_natively(WeightFormat[tensor_type.name], rows, shape[-1], dtype)
        except NotFiniteError:
            raise not_finite() from None
        if native is not None:
            return native.view(shape)
    out = torch.empty(len(rows), shape[-1], dtype=dtype)
    step = max(1, _CHUNK_ELEMENTS // shape[-1])
    for start in range(0, len(rows), step):
        values = _values(rows[start : start + step], tensor_type)
        if not bool(torch.stack(values.aminmax()).isfinite().all()):
            raise not_finite()
        out[start : start + step] = values
    return out.view(shape)


def _values(rows: torch.Tensor, tensor_type: GGMLQuantizationType) -> torch.Tensor:
    """Dequantize rows to [rows, columns] fp32.

    GGUFRows dequantizes most formats, since torch uses all cores and is twice as fast per core as the gguf package. The
    package dequantizes the formats that GGUFRows lacks.
    """
    if tensor_type.name in WeightFormat.__members__:
        return GGUFRows(WeightFormat[tensor_type.name], rows).dequantize(torch.float32)
    with np.errstate(all="ignore"):  # the caller checks the numbers
        return torch.from_numpy(dequantize(rows.numpy(), tensor_type))


def _check_dequantizable(path: Path, tensor_type: GGMLQuantizationType) -> None:
    """Raise UnsupportedModelError if tensors of this type cannot be dequantized."""
    if tensor_type not in _PLAIN and not _is_dequantizable(tensor_type):
        known = ", ".join(other.name for other in GGML_QUANT_SIZES if other in _PLAIN or _is_dequantizable(other))
        raise UnsupportedModelError(
            f"{path} has tensors of type {tensor_type.name}, which cannot be dequantized; use a version of the model "
            f"in other types: {known}"
        )


def _is_dequantizable(tensor_type: GGMLQuantizationType) -> bool:
    """Whether the gguf package can dequantize the type, tried on a block of zeros."""
    try:
        dequantize(np.zeros((1, GGML_QUANT_SIZES[tensor_type][1]), np.uint8), tensor_type)
    except NotImplementedError:
        return False
    return True


def _check_parts(headers: Sequence[GGUFHeader]) -> None:
    """Raise CheckpointError unless every part is present, once and in order."""
    first = headers[0]
    count = _split_number(first, "split.count", 1)
    if len(headers) != count:
        raise CheckpointError(
            f"{first.path} is part 1 of {count}, but its folder has {len(headers)} of them; "
            "put all parts into one folder"
        )
    for index, header in enumerate(headers):
        number = _split_number(header, "split.no", 0)
        if number != index or _split_number(header, "split.count", 1) != count:
            raise CheckpointError(
                f"{header.path} is part {number + 1} by its metadata, but part {index + 1} of {count} by its name; "
                "fetch the parts again under their own names"
            )
    num_tensors = sum(len(header.tensors) for header in headers)
    expected = _split_number(first, "split.tensors.count", num_tensors)
    if num_tensors != expected:
        raise CheckpointError(f"the parts of {first.path} hold {num_tensors} of {expected} tensors; fetch them again")


def _split_number(header: GGUFHeader, key: str, default: int) -> int:
    value: Any = header.metadata.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise CheckpointError(f"{header.path}: {key} is {value!r}, which is not a count; fetch the file again")
    return value
