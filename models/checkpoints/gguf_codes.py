"""GGUF's formats that are held as something else, of the very same values: IQ4_NL, MXFP4 and Q3_K."""

from collections.abc import Callable

import torch
from gguf.constants import GGMLQuantizationType

from models.checkpoints.base import StoredQuant
from models.errors import CheckpointError
from models.quant.nibbles import pack_nibbles
from models.quant.tensor import Encoding, QuantKind, QuantTensor

_BLOCK = 32  # columns
# Encoding, and the dtype of the scale that stands before 16 bytes of codes.
_FORMATS = {
    GGMLQuantizationType.IQ4_NL: (Encoding.IQ4_NL, torch.float16),
    GGMLQuantizationType.MXFP4: (Encoding.E2M1, torch.uint8),
}


def stored_codes(
    kind: GGMLQuantizationType, shape: tuple[int, ...], rows: torch.Tensor, refuse: Callable[[], CheckpointError]
) -> StoredQuant | None:
    """How to read the matrix as codes, or None if its format is another. rows: [rows, bytes a row], not read yet.

    refuse: makes the error for scales that are no finite numbers.
    """
    if kind not in _FORMATS or len(shape) != 2:
        return None
    encoding, scale_dtype = _FORMATS[kind]

    def read() -> QuantTensor:
        blocks = rows.unflatten(1, (shape[1] // _BLOCK, -1))
        scales = blocks[..., : scale_dtype.itemsize].contiguous().view(scale_dtype).squeeze(-1)
        is_finite = scales != 255 if scale_dtype == torch.uint8 else scales.isfinite()  # 255 is E8M0's NaN
        if not bool(is_finite.all()):
            raise refuse()
        nibbles = blocks[..., scale_dtype.itemsize :]  # column i in the low nibble of byte i, i + 16 in the high one
        codes = torch.cat((nibbles & 15, nibbles >> 4), dim=-1).flatten(1)
        return QuantTensor(encoding, pack_nibbles(codes), scales, None, group_size=_BLOCK)

    return StoredQuant(QuantKind(encoding, _BLOCK), read)


def q3_k_as_q6_k(rows: torch.Tensor) -> torch.Tensor:
    """Rows of Q3_K blocks as rows of Q6_K blocks: [rows, bytes a row] of both, with the same numbers.

    Both are d * scale * code with a scale for 16 columns: of 6 bits and codes -4..3, or of 8 bits and codes -32..31.
    Layouts of 256 columns: hmask 32, codes 64, scales 12, d 2 bytes; low bits 128, high bits 64, scales 16, d 2 bytes.
    """
    blocks = rows.unflatten(1, (-1, 110))  # [rows, blocks, bytes]
    third, low, scales, d = blocks.split((32, 64, 12, 2), dim=-1)
    two_bits = torch.stack([low.unflatten(-1, (2, 32)) >> shift & 3 for shift in (0, 2, 4, 6)], dim=-2)
    third_bit = torch.stack([third >> shift & 1 for shift in range(8)], dim=-2).unflatten(-2, (2, 4))
    codes = two_bits + third_bit * 4 + 28  # -4 where the third bit is clear; 32 more: [.., 2, 4, 32]
    low_nibbles = (codes[..., :2, :] & 15) | (codes[..., 2:, :] & 15) << 4
    high_bits = sum((codes[..., run, :] >> 4) << 2 * run for run in range(1, 4)) + (codes[..., 0, :] >> 4)
    four_bits = torch.cat((scales[..., :8] & 15, scales[..., :8] >> 4), dim=-1)
    upper_two = torch.cat([scales[..., 8:] >> shift & 3 for shift in (0, 2, 4, 6)], dim=-1)
    wide_scales = (four_bits | upper_two << 4) - 32  # int8 in uint8
    return torch.cat((low_nibbles.flatten(-3), high_bits.flatten(-2), wide_scales, d), dim=-1).flatten(1)
