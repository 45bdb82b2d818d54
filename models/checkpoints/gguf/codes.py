"""GGUF formats whose matrices are read as codes with scales: IQ4_NL, MXFP4 and NVFP4 unchanged, others as integers.

IQ4_XS has the codes of IQ4_NL. Types of 1 to 3 bits encode eight or four columns as an entry of a codebook of small
integers, with a scale for 32 columns (IQ1_S, IQ2_XXS, IQ3_XXS, IQ3_S) or 16 (IQ1_M, IQ2_XS, IQ2_S). The codebooks of
IQ1 and IQ2 have few integers, which become indices into a table of them (IQ2); IQ3 becomes INT8. TQ1_0 and TQ2_0 have
-1, 0 and 1 with a scale for 256 columns (TERNARY). Such codes, but TQ2_0's, take more bits than the file's and
represent the same numbers.
"""

import functools
from collections.abc import Callable

import numpy as np
import torch
from gguf import dequantize
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from models.checkpoints.base import StoredQuant
from models.errors import CheckpointError
from models.quant.dequantize import TABLES
from models.quant.nibbles import pack_crumbs, pack_nibbles, unpack_nibbles
from models.quant.tensor import NVFP4_GROUP, Encoding, QuantKind, QuantTensor

_GROUP, _HALF = 32, 16  # columns
_MakeError = Callable[[], CheckpointError]
_IQ2_LARGEST = 43
_CHUNK_ELEMENTS = 1 << 22  # read together: the gguf package has temporaries of 4 bytes for each


def stored_codes(
    tensor_type: GGMLQuantizationType,
    shape: tuple[int, ...],
    rows: torch.Tensor,
    not_finite: _MakeError,
) -> StoredQuant | None:
    """Return a reader of the matrix as codes with scales, or None if it can only be dequantized.

    rows: [rows, bytes per row], mapped and not read yet. not_finite: makes the error for scales that are not finite.
    """
    if len(shape) != 2:
        return None
    if tensor_type in _INTEGERS:
        kind, _ = _INTEGERS[tensor_type]
        return StoredQuant(kind, functools.partial(_read_integers, tensor_type, rows, not_finite))
    if tensor_type not in _READERS:
        return None
    kind, split = _READERS[tensor_type]
    block_columns, block_bytes = GGML_QUANT_SIZES[tensor_type]

    def read() -> QuantTensor:
        scales, pairs = split(rows.unflatten(1, (shape[1] // block_columns, block_bytes)))
        is_finite = scales != 255 if scales.dtype == torch.uint8 else scales.float().isfinite()  # 255 is E8M0's NaN
        if not bool(is_finite.all()):
            raise not_finite()
        # In a group's bytes, column i is in the low nibble of byte i, column i + half a group in the high nibble.
        codes = torch.cat((pairs & 15, pairs >> 4), dim=-1).flatten(1)
        return QuantTensor(kind.encoding, pack_nibbles(codes), scales.flatten(1), None, kind.group_size)

    return StoredQuant(kind, read)


def wider_format(tensor_type: GGMLQuantizationType) -> str | None:
    """Return the name of the format to which codes are converted if it takes more bits than the file's, else None."""
    if tensor_type is GGMLQuantizationType.IQ4_XS:
        return "IQ4_NL"
    if tensor_type not in _INTEGERS or tensor_type is GGMLQuantizationType.TQ2_0:
        return None
    kind, _ = _INTEGERS[tensor_type]
    return f"{kind.encoding.name} g{kind.group_size}"


# Each function takes blocks [rows, blocks, bytes] and returns scales [rows, ..] and codes [rows, .., bytes of a group].


def _split_iq4_nl(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return blocks[..., :2].contiguous().view(torch.float16), blocks[..., 2:]


def _split_mxfp4(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return blocks[..., :1], blocks[..., 1:]


def _split_nvfp4(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scales and codes of NVFP4 blocks: 4 scales in E4M3 without a sign, then 4 groups of 16 columns."""
    scales = (blocks[..., :4] & 0x7F).view(torch.float8_e4m3fn)
    return scales, blocks[..., 4:].unflatten(-1, (4, 8))


def _split_iq4_xs(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scales and codes of IQ4_XS blocks.

    A block has an fp16 scale and, for its 8 groups of 32 columns, factors of 6 bits: the upper 2 bits of all factors in
    2 bytes, then the low 4 bits in 4 bytes.
    """
    d, high, low, pairs = blocks.split((2, 2, 4, 128), dim=-1)
    upper = torch.stack([high >> shift & 3 for shift in (0, 2, 4, 6)], dim=-1).flatten(-2)
    factors = (unpack_nibbles(low) | upper << 4).to(torch.float32) - 32
    scales = d.contiguous().view(torch.float16).to(torch.float32) * factors  # 17 bits: exact
    return scales, pairs.unflatten(-1, (8, 16))


def _read_integers(tensor_type: GGMLQuantizationType, rows: torch.Tensor, not_finite: _MakeError) -> QuantTensor:
    """Recover a matrix's integer codes: the gguf package's dequantized values divided by their scales, part by part."""
    kind, read_scales = _INTEGERS[tensor_type]
    block_columns, block_bytes = GGML_QUANT_SIZES[tensor_type]
    columns = rows.shape[1] // block_bytes * block_columns
    codes, scales = [], []
    for part in rows.split(max(1, _CHUNK_ELEMENTS // columns)):
        scale = read_scales(part.unflatten(1, (-1, block_bytes))).flatten(1)
        if not bool(scale.isfinite().all()):
            raise not_finite()
        numbers = torch.from_numpy(dequantize(part.numpy(), tensor_type)).unflatten(1, (-1, kind.group_size))
        code = (numbers / torch.where(scale == 0, 1.0, scale.to(torch.float32))[..., None]).round().flatten(1)
        codes.append(_packed(code, kind.encoding))
        scales.append(scale)
    return QuantTensor(kind.encoding, torch.cat(codes), torch.cat(scales), None, kind.group_size)


def _packed(numbers: torch.Tensor, encoding: Encoding) -> torch.Tensor:
    """Return whole numbers [rows, columns] as codes."""
    if encoding is Encoding.INT8:
        return numbers.char()
    if encoding is Encoding.TERNARY:
        return pack_crumbs((numbers + 1).to(torch.uint8))
    return pack_nibbles(_IQ2_CODES[(numbers + _IQ2_LARGEST).long()])


def _iq2_codes() -> torch.Tensor:
    """Return the code of each whole number from -_IQ2_LARGEST on; the zero's for those that are not in the table."""
    table = TABLES[Encoding.IQ2]
    codes = torch.full((2 * _IQ2_LARGEST + 1,), table.index(0), dtype=torch.uint8)
    for code, number in enumerate(table):
        codes[int(number) + _IQ2_LARGEST] = min(code, table.index(0))
    return codes


def _words(data: torch.Tensor, dtype: type[np.unsignedinteger]) -> torch.Tensor:
    """Return bytes, seen as unsigned words of `dtype`, as int64, which torch computes with: [.., words]."""
    return torch.from_numpy(data.contiguous().numpy().view(dtype).astype(np.int64))


def _block_scale(blocks: torch.Tensor, first: int = 0) -> torch.Tensor:
    return blocks[..., first : first + 2].contiguous().view(torch.float16)


def _scales_iq1_s(blocks: torch.Tensor) -> torch.Tensor:
    """Read scales from bits 12-14 of 8 words of 16 bits, times 1/8, so that all codes are integers."""
    return _block_scale(blocks).to(torch.float32) * (2 * (_words(blocks[..., 34:], np.uint16) >> 12 & 7) + 1) * 0.125


def _scales_iq2_xxs(blocks: torch.Tensor) -> torch.Tensor:
    """Read scales from the upper 4 bits of every second word of 32 bits."""
    return _block_scale(blocks).to(torch.float32) * ((_words(blocks[..., 2:], np.uint32)[..., 1::2] >> 28) + 0.5) * 0.25


def _scales_iq2_of_16(blocks: torch.Tensor, first: int) -> torch.Tensor:
    """Read scales of IQ2_XS and IQ2_S from the nibbles of 8 bytes, from byte `first` on."""
    return _block_scale(blocks).to(torch.float32) * (unpack_nibbles(blocks[..., first:]).to(torch.float32) + 0.5) * 0.25


def _scales_iq1_m(blocks: torch.Tensor) -> torch.Tensor:
    """Read scales from 4 words of 16 bits, times 1/8, so that all codes are integers.

    Each word has four scales of 3 bits, and in its upper 4 bits a quarter of the block's fp16 scale.
    """
    words = _words(blocks[..., 48:], np.uint16)
    bits = (words >> 12 << torch.tensor([0, 4, 8, 12])).sum(-1)
    block_scale = torch.from_numpy(bits.numpy().astype(np.uint16).view(np.float16)).to(torch.float32)
    factors = torch.stack([2 * (words >> shift & 7) + 1 for shift in (0, 3, 6, 9)], dim=-1).flatten(-2)
    return block_scale[..., None] * factors * 0.125


def _scales_iq3_xxs(blocks: torch.Tensor) -> torch.Tensor:
    """Read scales from the upper 4 bits of 8 words of 32 bits, which follow the codebook's indices."""
    return _block_scale(blocks).to(torch.float32) * ((_words(blocks[..., 66:], np.uint32) >> 28) + 0.5) * 0.5


def _scales_iq3_s(blocks: torch.Tensor) -> torch.Tensor:
    """Read scales from the 4 nibbles at the end of a block."""
    pairs = blocks[..., 106:]
    nibbles = torch.stack((pairs & 15, pairs >> 4), dim=-1).flatten(-2)
    return _block_scale(blocks).to(torch.float32) * (2 * nibbles.to(torch.float32) + 1)


# Formats that are read as integers times scales: [rows, blocks, bytes] -> [rows, blocks, scales].
_INTEGERS: dict[GGMLQuantizationType, tuple[QuantKind, Callable[[torch.Tensor], torch.Tensor]]] = {
    GGMLQuantizationType.IQ1_S: (QuantKind(Encoding.IQ2, _GROUP), _scales_iq1_s),
    GGMLQuantizationType.IQ1_M: (QuantKind(Encoding.IQ2, _HALF), _scales_iq1_m),
    GGMLQuantizationType.IQ2_XXS: (QuantKind(Encoding.IQ2, _GROUP), _scales_iq2_xxs),
    GGMLQuantizationType.IQ2_XS: (QuantKind(Encoding.IQ2, _HALF), functools.partial(_scales_iq2_of_16, first=66)),
    GGMLQuantizationType.IQ2_S: (QuantKind(Encoding.IQ2, _HALF), functools.partial(_scales_iq2_of_16, first=74)),
    GGMLQuantizationType.IQ3_XXS: (QuantKind(Encoding.INT8, _GROUP), _scales_iq3_xxs),
    GGMLQuantizationType.IQ3_S: (QuantKind(Encoding.INT8, _GROUP), _scales_iq3_s),
    GGMLQuantizationType.TQ1_0: (QuantKind(Encoding.TERNARY, 256), functools.partial(_block_scale, first=52)),
    GGMLQuantizationType.TQ2_0: (QuantKind(Encoding.TERNARY, 256), functools.partial(_block_scale, first=64)),
}

_READERS = {
    GGMLQuantizationType.IQ4_NL: (QuantKind(Encoding.IQ4_NL, _GROUP), _split_iq4_nl),
    GGMLQuantizationType.MXFP4: (QuantKind(Encoding.E2M1, _GROUP), _split_mxfp4),
    GGMLQuantizationType.NVFP4: (QuantKind(Encoding.E2M1, NVFP4_GROUP), _split_nvfp4),
    GGMLQuantizationType.IQ4_XS: (QuantKind(Encoding.IQ4_NL, _GROUP), _split_iq4_xs),
}

_IQ2_CODES = _iq2_codes()
