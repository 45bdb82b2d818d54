"""ScaledWeight: a quantized matrix, codes with scales, packed for the native kernels (C++).

Layouts are in kernels/cpu/src/scaled/scaled_codes.h, the arithmetic in scaled_linear.cpp. Codes, scales and zeros stay
as the checkpoint has them, so that a looked-up row has exactly the values of the format.
"""

from dataclasses import dataclass

import torch

from models.kernels.cpu.arena import HugePageArena
from models.kernels.cpu.library import KernelLibrary, address, kernel_library, required_library
from models.kernels.cpu.packed_weight import NativeWeight
from models.kernels.cpu.tape import Kernel
from models.quant.tensor import WIDE_ENCODINGS, ActivationQuantization, Encoding, QuantKind, QuantTensor

# In the order of Code, ScaleType and Rounding in the C++ source.
_CODES = (
    Encoding.INT4,
    Encoding.E2M1,
    Encoding.IQ4_NL,
    Encoding.IQ2,
    Encoding.TERNARY,
    Encoding.INT8,
    Encoding.FP8_E4M3,
    Encoding.NF4,
    Encoding.FP4,
)
_INTEGERS = _CODES[:6]
_ROUNDED_TO = (*WIDE_ENCODINGS, Encoding.TERNARY)  # whose rows may be rounded, as the checkpoint asks
_PAIRED = (Encoding.E2M1, Encoding.IQ2)  # may have a scale for 16 columns: two for each step
_SCALES = (torch.float16, torch.bfloat16, torch.float32, torch.uint8, torch.float8_e4m3fn)
_ROUNDINGS = (
    ActivationQuantization.NONE,
    ActivationQuantization.DYNAMIC_PER_TOKEN,
    ActivationQuantization.STATIC,
    ActivationQuantization.DYNAMIC_PER_GROUP,
)
_OFFSET = {Encoding.INT4: 8}  # what the kernel subtracts from each code; zero points are stored less this
_STEP = 32  # columns
_PAIR_GROUP = 16
_LANES = 16  # of quantize.cpp: columns and groups must be multiples of this


def scaled_refusal(kind: QuantKind, columns: int) -> str | None:
    """Return the reason why the kernels do not support a matrix of this kind and width, or None if they do."""
    if columns % 16:
        return f"{columns} columns are not a multiple of 16"
    has_pairs = _has_pairs(kind.encoding, kind.group_size) and not kind.has_zeros
    if kind.group_size < columns and kind.group_size % _STEP and not has_pairs:
        return f"groups of {kind.group_size} columns are not a multiple of {_STEP}"
    if kind.activation is not ActivationQuantization.NONE and kind.encoding not in _ROUNDED_TO:
        return f"rows are not rounded to {kind.encoding.name}"
    if kind.activation is ActivationQuantization.DYNAMIC_PER_GROUP and kind.encoding in _INTEGERS:
        return f"rows are not rounded to {kind.encoding.name} by groups"
    return None


@dataclass(frozen=True, slots=True, eq=False)
class ScaledWeight(NativeWeight):
    """A QuantTensor packed for the kernels. format: a number for encoding, type of scales and zeros (scaled_codes.h).

    permutation: [columns] int32, the input column of each code column, or None.
    """

    encoding: Encoding
    permutation: torch.Tensor | None
    activation: ActivationQuantization
    input_scale: float

    def kernel(self, library: KernelLibrary) -> Kernel:
        return library.scaled_linear

    def extra_arguments(self) -> tuple[int | float | None, ...]:
        return address(self.permutation), _ROUNDINGS.index(self.activation), self.input_scale

    def can_fuse_with(self, other: NativeWeight) -> bool:
        return (
            isinstance(other, ScaledWeight)
            and (self.encoding in _INTEGERS) == (other.encoding in _INTEGERS)
            and (self.activation, self.input_scale) == (other.activation, other.input_scale)
            and (self.activation is ActivationQuantization.NONE or self.encoding is other.encoding)
            and (self.activation is not ActivationQuantization.DYNAMIC_PER_GROUP or self.group_size == other.group_size)
            and (
                other.permutation is None
                if self.permutation is None
                else other.permutation is not None and torch.equal(self.permutation, other.permutation)
            )
        )

    def look_up(self, ids: torch.Tensor, dtype: torch.dtype, *, library: KernelLibrary | None = None) -> torch.Tensor:
        """Return rows `ids` ([T] int64, within the matrix), dequantized: [T, columns] in the layer's input order."""
        computed = dtype if dtype in (torch.float32, torch.bfloat16) else torch.float32
        out = torch.empty(len(ids), self.columns, dtype=computed)
        (library or required_library()).scaled_gather_rows(
            *(self.format, self.data.data_ptr(), self.columns, self.group_size),
            *(ids.data_ptr(), len(ids), computed == torch.bfloat16, out.data_ptr()),
        )
        if self.permutation is not None:
            out = torch.empty_like(out).index_copy_(1, self.permutation.long(), out)
        return out.to(dtype)


def pack_quantized(
    quantized: QuantTensor, *, arena: HugePageArena | None = None, library: KernelLibrary | None = None
) -> ScaledWeight:
    """Pack a matrix that `scaled_refusal` does not refuse; the result does not reference `quantized`.

    arena: allocates the packed bytes; None for torch's allocator.
    """
    library = library or required_library()
    encoding = quantized.encoding
    rows, columns = quantized.shape
    scales = _for_each_row(quantized.scales, quantized.row_group, rows)
    zeros = quantized.zeros
    if zeros is not None:
        centered = zeros.to(torch.int16) - _OFFSET.get(encoding, 0)
        zeros = _for_each_row(centered.to(torch.int8), quantized.row_group, rows)
    codes = quantized.codes.view(torch.uint8).contiguous()
    has_pairs = _has_pairs(encoding, quantized.group_size)
    assert has_pairs or scales.dtype != torch.float8_e4m3fn
    word = _CODES.index(encoding) | _SCALES.index(scales.dtype) << 8 | (zeros is not None) << 16 | has_pairs << 17
    geometry = (rows, columns, quantized.group_size)
    size = library.scaled_packed_bytes(word, *geometry)
    data = torch.empty(size, dtype=torch.uint8) if arena is None else arena.allocate(size)
    library.scaled_pack(
        *(word, codes.data_ptr(), scales.data_ptr(), address(zeros), quantized.matrix_scale),
        *(*geometry, data.data_ptr()),
    )
    permutation = None if quantized.permutation is None else quantized.permutation.to(torch.int32).contiguous()
    input_scale = 1.0 if quantized.input_scale is None else quantized.input_scale
    return ScaledWeight(
        word, rows, columns, data, quantized.group_size, encoding, permutation, quantized.activation, input_scale
    )


def quantize_natively(
    weight: torch.Tensor, encoding: Encoding, group_size: int, *, library: KernelLibrary | None = None
) -> QuantTensor | None:
    """Quantize like `quantize_matrix` by a kernel, to INT4 without zero points or to NF4.

    Returns None if there is no kernel for this encoding, dtype, device or size.
    """
    library = library or kernel_library()
    rows, columns = weight.shape
    is_supported = encoding in (Encoding.INT4, Encoding.NF4) and weight.dtype in (torch.bfloat16, torch.float32)
    if library is None or not is_supported or weight.device.type != "cpu" or columns % _LANES or group_size % _LANES:
        return None
    weight = weight.contiguous()
    codes = torch.empty(rows, columns // 2, dtype=torch.uint8)
    scales = torch.empty(rows, -(-columns // group_size), dtype=torch.bfloat16)
    library.quantize(
        *(weight.data_ptr(), weight.dtype == torch.bfloat16, rows, columns),
        *(_CODES.index(encoding), group_size, codes.data_ptr(), scales.data_ptr()),
    )
    return QuantTensor(encoding, codes, scales, None, group_size)


def _has_pairs(encoding: Encoding, group_size: int) -> bool:
    return encoding in _PAIRED and group_size == _PAIR_GROUP


def _for_each_row(values: torch.Tensor, row_group: int, rows: int) -> torch.Tensor:
    """Repeat values per group of rows [rows / row_group, groups] for each row, [rows, groups], contiguous."""
    if row_group > 1:
        values = values.repeat_interleave(row_group, 0)[:rows]
    return values.contiguous()
