"""Matrices in NVFP4: E2M1 codes, an E4M3 scale for 16 columns, and one fp32 number for the matrix.

codes   uint8 [rows, columns / 2], even columns in low nibbles
scales  weight_scale, float8_e4m3fn [rows, columns / 16]
"""

from collections.abc import Callable
from dataclasses import replace

from models.checkpoints.base import StoredTensor
from models.checkpoints.quantized.parts import Parts, check_divides, read_matrix
from models.quant.tensor import NVFP4_GROUP, Encoding, QuantKind, QuantTensor


def gather_nvfp4(parts: Parts, codes_name: str, read_matrix_scale: Callable[[], float]) -> StoredTensor:
    """Take codes and scales from `parts` and return the matrix.

    read_matrix_scale: returns the number by which all scales are multiplied, whose tensor the caller takes.
    """
    codes = parts.take_matrix(codes_name, ("U8",))
    rows, columns = codes.shape[0], codes.shape[1] * 2
    check_divides(parts, NVFP4_GROUP, columns, "NVFP4's group size")
    grid = (rows, columns // NVFP4_GROUP)
    scales = parts.take(".weight_scale", ("F8_E4M3",), grid)
    kind = QuantKind(Encoding.E2M1, NVFP4_GROUP)

    def read() -> QuantTensor:
        return replace(read_matrix(kind, codes.read(), scales, grid), matrix_scale=read_matrix_scale())

    return parts.stored((rows, columns), kind, read)
