"""Rounding of matrices to 4-bit codes with a scale a group (C++, src/scaled/quantize.cpp)."""

import torch

from models.kernels.cpu.library import KernelLibrary, kernel_library

_LANES = 16  # columns and groups must be multiples of this


def quantize_rows(
    weight: torch.Tensor, code: int, group_size: int, *, library: KernelLibrary | None = None
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return codes [rows, columns / 2] uint8 and scales [rows, groups] bf16, or None without a kernel for the matrix.

    code: of INT4 or NF4, a Code of scaled_codes.h.
    """
    library = library or kernel_library()
    rows, columns = weight.shape
    is_supported = weight.dtype in (torch.bfloat16, torch.float32) and weight.device.type == "cpu"
    if library is None or not is_supported or columns % _LANES or group_size % _LANES:
        return None
    weight = weight.contiguous()
    codes = torch.empty(rows, columns // 2, dtype=torch.uint8)
    scales = torch.empty(rows, -(-columns // group_size), dtype=torch.bfloat16)
    library.quantize(
        *(weight.data_ptr(), weight.dtype == torch.bfloat16, rows, columns),
        *(code, group_size, codes.data_ptr(), scales.data_ptr()),
    )
    return codes, scales
