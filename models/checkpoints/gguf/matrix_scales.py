"""NVFP4's scale of a whole matrix, which a GGUF file stores as a tensor beside the matrix.

X.weight       NVFP4, [rows, columns] or [experts, rows, columns]
X.scale        fp32, one number or one for each expert; multiplies the matrix. Absent: 1
X.input_scale  for rows in 4 bits; not used
"""

import dataclasses
import math
from collections.abc import Mapping

import torch

from models.checkpoints.base import StoredQuant, StoredTensor
from models.errors import CheckpointError
from models.quant.dequantize import dequantize
from models.quant.tensor import QuantTensor


def with_matrix_scales(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Return `tensors` with the scales of NVFP4 matrices as part of these matrices. Reads nothing yet.

    Raises CheckpointError for scales that do not fit their matrix.
    """
    combined = dict(tensors)
    for name, matrix in tensors.items():
        if matrix.format != "NVFP4" or not name.endswith(".weight"):
            continue
        module = name.removesuffix("weight")
        combined.pop(f"{module}input_scale", None)
        scale = combined.pop(f"{module}scale", None)
        if scale is None:
            continue
        count = math.prod(matrix.shape[:-2])
        if scale.format != "F32" or math.prod(scale.shape) != count:
            raise CheckpointError(
                f"{scale.file}: {scale.name!r} is stored as {scale.format} with shape {list(scale.shape)}; beside "
                f"{name!r} it must be {count} numbers in F32; fetch the file again"
            )
        combined[name] = _scaled(matrix, scale, 0)
    return combined


def _scaled(matrix: StoredTensor, scale: StoredTensor, index: int) -> StoredTensor:
    """Return a matrix, or a stack of them, times the numbers in `scale` from `index` on."""
    part, quantized = matrix.part, matrix.quantized
    if quantized is None:
        assert part is not None
        parts = [_scaled(part(expert), scale, expert) for expert in range(matrix.shape[0])]

        def read_stack(dtype: torch.dtype) -> torch.Tensor:
            return torch.stack([each.read(dtype) for each in parts if each.read is not None])

        return dataclasses.replace(matrix, read=read_stack, part=parts.__getitem__)

    def read_quantized() -> QuantTensor:
        assert scale.read is not None
        assert quantized is not None
        factor = float(scale.read(torch.float32).flatten()[index])
        if not math.isfinite(factor):
            raise CheckpointError(f"{scale.file}: {scale.name!r} has a number that is not finite; fetch the file again")
        return dataclasses.replace(quantized.read(), matrix_scale=factor)

    return dataclasses.replace(
        matrix,
        read=lambda dtype: dequantize(read_quantized(), dtype),
        quantized=StoredQuant(quantized.kind, read_quantized),
    )
