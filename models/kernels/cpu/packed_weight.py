"""Weights packed for the native linear kernels (C++): packing, embedding look-up, dequantization of GGUF blocks.

Quantized weights are GGUF blocks and keep their format's scales; activations are quantized to int8 in every call, with
a scale per row and 32 columns (src/quantized: layouts in codecs.h, arithmetic in quantized_linear.cpp). bf16 and fp32
weights are multiplied in their own type with fp32 sums (src/dense). Weights of other checkpoints are in
quant/scaled_weight.py.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from models.kernels.cpu.arena import HugePageArena
from models.kernels.cpu.library import KernelLibrary, kernel_library, required_library
from models.kernels.cpu.tape import Kernel
from models.kernels.formats import DENSE_DTYPES, NotFiniteError, WeightFormat


@dataclass(frozen=True, slots=True, eq=False)
class NativeWeight(ABC):
    """A packed matrix of any format, and the native kernel that multiplies by it."""

    format: int  # the format's number in struct hr_segment
    rows: int  # outputs
    columns: int  # inputs
    data: torch.Tensor  # uint8, owned
    group_size: int

    @abstractmethod
    def kernel(self, library: KernelLibrary) -> Kernel:
        """Return the kernel that multiplies by this matrix. Its last arguments are the format's `extra_arguments`."""

    def adapted_kernel(self, library: KernelLibrary) -> Kernel | None:  # noqa: ARG002
        """Return the kernel that also applies adapters, or None. Its last arguments are AdaptedRows.arguments()."""
        return None

    def extra_arguments(self) -> tuple[int | float | None, ...]:
        return ()

    @abstractmethod
    def can_fuse_with(self, other: "NativeWeight") -> bool:
        """Whether one native call can multiply an input by this matrix and by `other`."""

    @abstractmethod
    def look_up(self, ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Return rows `ids` ([T] int64, in range), dequantized to `dtype`: [T, columns]."""


@dataclass(frozen=True, slots=True, eq=False)
class PackedWeight(NativeWeight):
    """A packed matrix of a GGUF format, of bf16 or of fp32."""

    format: WeightFormat
    group_size: int = 0  # 0: fixed by the format

    def kernel(self, library: KernelLibrary) -> Kernel:
        if self.format == WeightFormat.F32:
            return library.f32_linear
        return library.bf16_linear if self.format == WeightFormat.BF16 else library.quantized_linear

    def adapted_kernel(self, library: KernelLibrary) -> Kernel | None:
        return None if self.format in DENSE_DTYPES else library.quantized_linear_adapted

    def can_fuse_with(self, other: NativeWeight) -> bool:
        if not isinstance(other, PackedWeight):
            return False
        return self.format == other.format or not {self.format, other.format} & DENSE_DTYPES.keys()

    def look_up(self, ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return gather_rows(self, ids, dtype)


def pack_weight(
    fmt: WeightFormat,
    raw: torch.Tensor,
    rows: int,
    columns: int,
    *,
    arena: HugePageArena | None = None,
    library: KernelLibrary | None = None,
) -> PackedWeight:
    """Pack a matrix with `rows` outputs and `columns` inputs; the result does not reference `raw`.

    raw: contiguous; GGUF blocks as uint8, row after row, or for BF16 and F32 the matrix itself. columns: a multiple of
    32, of 256 for the K formats, of 16 for BF16 and F32. arena: allocates the packed bytes; None for torch's allocator.
    Raises NotFiniteError if a block's scale is not a finite number.
    """
    library = library or required_library()
    assert raw.dtype == DENSE_DTYPES.get(fmt, torch.uint8)
    assert raw.is_contiguous()
    is_dense, is_bf16 = fmt in DENSE_DTYPES, fmt == WeightFormat.BF16
    size = library.dense_packed_bytes(is_bf16, rows, columns) if is_dense else library.packed_bytes(fmt, rows, columns)
    data = torch.empty(size, dtype=torch.uint8) if arena is None else arena.allocate(size)
    if is_dense:
        library.dense_pack_weights(is_bf16, raw.data_ptr(), rows, columns, data.data_ptr())
    elif not library.pack_weights(fmt, raw.data_ptr(), rows, columns, data.data_ptr()):
        raise NotFiniteError
    return PackedWeight(fmt, rows, columns, data)


def gather_rows(
    weight: PackedWeight, ids: torch.Tensor, dtype: torch.dtype, *, library: KernelLibrary | None = None
) -> torch.Tensor:
    """Look up embeddings: rows `ids` ([T] int64, in range), dequantized to `dtype`, bf16 or fp32: [T, columns]."""
    library = library or required_library()
    if (own_dtype := DENSE_DTYPES.get(weight.format)) is not None:
        out = torch.empty(len(ids), weight.columns, dtype=own_dtype)
        library.dense_gather_rows(
            *(own_dtype == torch.bfloat16, weight.data.data_ptr(), weight.columns),
            *(ids.data_ptr(), len(ids), out.data_ptr()),
        )
        return out.to(dtype)
    out = torch.empty(len(ids), weight.columns, dtype=dtype)
    library.gather_rows(
        *(weight.format, weight.data.data_ptr(), weight.columns, ids.data_ptr(), len(ids)),
        *(dtype == torch.bfloat16, out.data_ptr()),
    )
    return out


def dequantize_natively(
    fmt: WeightFormat, raw: torch.Tensor, columns: int, dtype: torch.dtype, *, library: KernelLibrary | None = None
) -> torch.Tensor | None:
    """Dequantize GGUF blocks to `dtype`: [rows, columns]. Return None if no kernel can.

    raw: as in `pack_weight`, [rows, bytes per row]. Raises NotFiniteError if a block's scale is not a finite number.
    """
    library = library or kernel_library()
    if library is None or dtype not in (torch.bfloat16, torch.float32) or raw.device.type != "cpu":
        return None
    raw = raw.contiguous()
    out = torch.empty(len(raw), columns, dtype=dtype)
    is_bf16 = dtype == torch.bfloat16
    if not library.dequantize_gguf(fmt, raw.data_ptr(), len(raw), columns, is_bf16, out.data_ptr()):
        raise NotFiniteError
    return out
