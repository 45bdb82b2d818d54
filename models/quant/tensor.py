"""QuantTensor: a quantized matrix in a layout common to all checkpoint formats, before it is packed for the kernels."""

import dataclasses
import enum
from collections.abc import Callable
from dataclasses import dataclass

import torch

from models.errors import UnsupportedModelError


class Encoding(enum.Enum):
    """The kind of code that represents a number, before scale and zero point."""

    INT4 = enum.auto()  # 0..15, two per byte; the zero point is 8 if none is given
    INT8 = enum.auto()  # int8; the zero point is 0 if none is given
    FP8_E4M3 = enum.auto()  # float8_e4m3fn
    NF4 = enum.auto()  # index into QLoRA's table of 16 quantiles (Dettmers et al. 2023, appendix E), two per byte
    FP4 = enum.auto()  # bitsandbytes' 4-bit float, an index into its table of 16, two per byte
    E2M1 = enum.auto()  # OCP 4-bit float of MXFP4 and NVFP4, two per byte
    IQ4_NL = enum.auto()  # index into GGUF's table of 16 integers, two per byte
    IQ2 = enum.auto()  # index into the integers that GGUF's IQ1 and IQ2 types have in their codebooks, two per byte
    TERNARY = enum.auto()  # -1, 0 or 1, stored plus 1, four per byte


NVFP4_GROUP = 16  # columns with a scale, where codes are E2M1; 32 in MXFP4
WIDE_ENCODINGS = (Encoding.INT8, Encoding.FP8_E4M3)  # one byte per code


def codes_per_byte(encoding: Encoding) -> int:
    if encoding in WIDE_ENCODINGS:
        return 1
    return 4 if encoding is Encoding.TERNARY else 2


class ActivationQuantization(enum.Enum):
    """How a quantized checkpoint requires a layer's inputs to be rounded."""

    NONE = enum.auto()  # weight-only
    DYNAMIC_PER_TOKEN = enum.auto()  # in the weights' encoding, or INT8 for TERNARY, a scale for each row
    DYNAMIC_PER_GROUP = enum.auto()  # in the weights' encoding, a scale for each row and group_size columns
    STATIC = enum.auto()  # in the weights' encoding, with the checkpoint's input_scale


@dataclass(frozen=True, slots=True)
class QuantKind:
    """Properties of a quantized matrix, known before it is read. group_size, row_group: columns and rows per scale."""

    encoding: Encoding
    group_size: int
    row_group: int = 1
    has_zeros: bool = False
    activation: ActivationQuantization = ActivationQuantization.NONE


@dataclass(frozen=True, slots=True, eq=False)
class QuantTensor:
    """A matrix [rows (outputs), columns (inputs)]: value[r, c] = (decode(code[r, c]) - zero[r, g]) * scale[r, g].

    codes: [rows, columns] int8 or float8_e4m3fn; 4-bit codes [rows, columns / 2] uint8, even columns in low nibbles;
    2-bit codes [rows, columns / 4] uint8, the first column in the lowest bits.
    scales: [rows / row_group, columns / group_size], both rounded up, in the format's own dtype (fp16, bf16, fp32;
    uint8 for E8M0; float8_e4m3fn for NVFP4, without a sign).
    zeros: uint8 or int8 in the shape of `scales`, or None for the encoding's own zero point.
    group_size: columns that share a scale; `columns` for a scale per row. row_group: rows that share a scale (1;
    128 for block-wise FP8; `rows` for a scale per tensor).
    permutation: [columns] int64, or None: code column j multiplies input column permutation[j] (GPTQ's act-order,
    sorted by group).
    matrix_scale: multiplies all scales (the second scale of NVFP4, whose E4M3 has little range).
    """

    encoding: Encoding
    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None
    group_size: int
    row_group: int = 1
    permutation: torch.Tensor | None = None
    activation: ActivationQuantization = ActivationQuantization.NONE
    input_scale: float | None = None
    matrix_scale: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the matrix."""
        rows, width = self.codes.shape
        return rows, width * codes_per_byte(self.encoding)

    @property
    def kind(self) -> QuantKind:
        has_zeros = self.zeros is not None
        return QuantKind(self.encoding, self.group_size, self.row_group, has_zeros, self.activation)


def rearrange_rows(quantized: QuantTensor, rearrange: Callable[[torch.Tensor], torch.Tensor]) -> QuantTensor:
    """Apply `rearrange`, a function that moves rows of tensors, to the matrix; each row keeps its scales.

    Raises UnsupportedModelError if `rearrange` does anything else, such as transpose.
    """
    rows = quantized.shape[0]
    before = torch.arange(rows)[:, None]
    after = rearrange(before)
    if after.shape != before.shape:
        raise UnsupportedModelError(
            "this architecture stores its matrices transposed, which is not supported for quantized ones; "
            "use an unquantized version of the model"
        )
    if torch.equal(after, before):
        return quantized
    order = after[:, 0].to(quantized.codes.device)
    groups = order // quantized.row_group
    return dataclasses.replace(
        quantized,
        codes=take_rows(quantized.codes, order),
        scales=take_rows(quantized.scales, groups),
        zeros=None if quantized.zeros is None else quantized.zeros[groups],
        row_group=1,
    )


def take_rows(tensor: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Return rows `ids` of a tensor of any dtype; torch itself takes no index of float8."""
    return tensor.view(torch.uint8)[ids].view(tensor.dtype) if tensor.dtype.itemsize == 1 else tensor[ids]
