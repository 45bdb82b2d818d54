"""GGUF's quantized blocks in plain torch, on any device, dequantized exactly like the gguf package.

Codes of a super-block (256 columns, with a scale for each 16 or 32 columns) have the shape [.., scales, columns per
scale].
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from models.kernels.formats import WeightFormat

_PART_ELEMENTS = 1 << 24  # there are several temporaries of 4 bytes for each
_Sections = tuple[torch.Tensor, ...]


@dataclass(frozen=True, slots=True, eq=False)
class GGUFRows:
    """A matrix in GGUF blocks. rows: [outputs, bytes per row], uint8."""

    format: WeightFormat
    rows: torch.Tensor

    def parts(self) -> "list[GGUFRows]":
        """Split the matrix into runs of rows that stay small when dequantized; a whole output layer would not."""
        block_columns, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[self.format.name]]
        columns = self.rows.shape[1] // block_bytes * block_columns
        return [GGUFRows(self.format, rows) for rows in self.rows.split(max(1, _PART_ELEMENTS // columns))]

    def dequantize(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the matrix [outputs, columns] in `dtype`."""
        sizes, read = _READERS[self.format]
        blocks = self.rows.unflatten(1, (-1, sum(sizes)))
        return read(blocks.split(sizes, dim=-1)).flatten(1).to(dtype)


# Each function takes the sections of blocks, [rows, blocks, bytes], and returns fp32 numbers [rows, blocks, ..].


def _q4_0(sections: _Sections) -> torch.Tensor:
    d, pairs = sections
    return _halves(d) * (_nibbles(pairs) - 8)


def _q4_1(sections: _Sections) -> torch.Tensor:
    d, m, pairs = sections
    return _halves(d) * _nibbles(pairs) + _halves(m)


def _q5_0(sections: _Sections) -> torch.Tensor:
    d, fifth, pairs = sections
    return _halves(d) * (_nibbles(pairs) + _bits(fifth) * 16 - 16)


def _q5_1(sections: _Sections) -> torch.Tensor:
    d, m, fifth, pairs = sections
    return _halves(d) * (_nibbles(pairs) + _bits(fifth) * 16) + _halves(m)


def _q8_0(sections: _Sections) -> torch.Tensor:
    d, codes = sections
    return _halves(d) * codes.view(torch.int8)


def _q2_k(sections: _Sections) -> torch.Tensor:
    scales, pairs, d, dmin = sections
    scale, minimum = _halves(d) * (scales & 15), _halves(dmin) * (scales >> 4)
    return scale[..., None] * _crumbs(pairs).unflatten(-1, (16, 16)) - minimum[..., None]


def _q3_k(sections: _Sections) -> torch.Tensor:
    third, pairs, scales, d = sections
    low = torch.cat((scales[..., :8] & 15, scales[..., :8] >> 4), dim=-1)
    upper = torch.cat([scales[..., 8:] >> shift & 3 for shift in (0, 2, 4, 6)], dim=-1)
    scale = _halves(d) * ((low | upper << 4).to(torch.int8) - 32)
    codes = _crumbs(pairs) + _planes(third) * 4 - 4
    return scale[..., None] * codes.unflatten(-1, (16, 16))


def _q4_k(sections: _Sections) -> torch.Tensor:
    d, dmin, packed, pairs = sections
    codes = _nibbles(pairs.unflatten(-1, (4, 32)))
    return _with_minima(d, dmin, packed, codes.unflatten(-1, (2, 32)).flatten(-3, -2))


def _q5_k(sections: _Sections) -> torch.Tensor:
    d, dmin, packed, fifth, pairs = sections
    codes = _nibbles(pairs.unflatten(-1, (4, 32))).flatten(-2) + _planes(fifth) * 16
    return _with_minima(d, dmin, packed, codes.unflatten(-1, (8, 32)))


def _q6_k(sections: _Sections) -> torch.Tensor:
    low, high, scales, d = sections
    scale = _halves(d) * scales.view(torch.int8)
    codes = _nibbles(low.unflatten(-1, (2, 64))).flatten(-2) + _crumbs(high) * 16 - 32
    return scale[..., None] * codes.unflatten(-1, (16, 16))


def _with_minima(d: torch.Tensor, dmin: torch.Tensor, packed: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Return scale * codes - minimum for codes [.., 8, 32].

    packed: 12 bytes with 8 scales and 8 minima of 6 bits. Bytes 0-3 hold scales 0-3, and bytes 4-7 minima 0-3, in
    their low 6 bits. Bytes 8-11 hold the low 4 bits of scales and minima 4-7, whose upper 2 bits are the upper 2 bits
    of bytes 0-7.
    """
    scales, minima, nibbles = packed.split(4, dim=-1)
    scale = torch.cat((scales & 63, nibbles & 15 | scales >> 6 << 4), dim=-1)
    minimum = torch.cat((minima & 63, nibbles >> 4 | minima >> 6 << 4), dim=-1)
    return (_halves(d) * scale)[..., None] * codes - (_halves(dmin) * minimum)[..., None]


def _halves(two_bytes: torch.Tensor) -> torch.Tensor:
    return two_bytes.contiguous().view(torch.float16).to(torch.float32)


def _nibbles(pairs: torch.Tensor) -> torch.Tensor:
    """Return the low nibbles of all bytes, then the high nibbles."""
    return torch.cat((pairs & 15, pairs >> 4), dim=-1).to(torch.int8)


def _bits(packed: torch.Tensor) -> torch.Tensor:
    """Return the bits of each byte, the lowest first: [.., bytes * 8]."""
    return torch.stack([packed >> shift & 1 for shift in range(8)], dim=-1).flatten(-2).to(torch.int8)


def _planes(packed: torch.Tensor) -> torch.Tensor:
    """Return the lowest bit of all bytes, then the next bit of all: [.., 8 * bytes]."""
    return torch.cat([packed >> shift & 1 for shift in range(8)], dim=-1).to(torch.int8)


def _crumbs(packed: torch.Tensor) -> torch.Tensor:
    """Return, for each 32 bytes, the lowest two bits of all bytes, then the next two: [.., bytes * 4]."""
    halves = packed.unflatten(-1, (2, 32))
    return torch.cat([halves >> shift & 3 for shift in (0, 2, 4, 6)], dim=-1).flatten(-2).to(torch.int8)


# Bytes of a block's sections in order, and the function that reads them.
_READERS: dict[WeightFormat, tuple[list[int], Callable[[_Sections], torch.Tensor]]] = {
    WeightFormat.Q4_0: ([2, 16], _q4_0),
    WeightFormat.Q4_1: ([2, 2, 16], _q4_1),
    WeightFormat.Q5_0: ([2, 4, 16], _q5_0),
    WeightFormat.Q5_1: ([2, 2, 4, 16], _q5_1),
    WeightFormat.Q8_0: ([2, 32], _q8_0),
    WeightFormat.Q2_K: ([16, 64, 2, 2], _q2_k),
    WeightFormat.Q3_K: ([32, 64, 12, 2], _q3_k),
    WeightFormat.Q4_K: ([2, 2, 12, 128], _q4_k),
    WeightFormat.Q5_K: ([2, 2, 12, 32, 128], _q5_k),
    WeightFormat.Q6_K: ([128, 64, 16, 2], _q6_k),
}
