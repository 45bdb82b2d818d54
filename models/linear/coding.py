"""Conversion of quantized matrices to the layout that a GPU's kernels multiply (CodedWeight)."""

import dataclasses
from collections.abc import Callable

import torch

from models.checkpoints.gguf.blocks import GGUFRows
from models.kernels.coded_weight import CODE_COLUMNS, CodedWeight, CodeKind
from models.kernels.formats import WeightFormat
from models.linear.storage import QuantizedStorage, WeightStorage
from models.quant.dequantize import TABLES, scales_fp32
from models.quant.nibbles import unpack_nibbles
from models.quant.tensor import Encoding, QuantTensor

_EXACT_TABLES = (Encoding.E2M1, Encoding.IQ4_NL)  # whose numbers bf16 holds
_TABLES = (Encoding.NF4, Encoding.FP4, *_EXACT_TABLES)
_WIDE = {Encoding.INT8: CodeKind.INT8, Encoding.FP8_E4M3: CodeKind.E4M3}
_CHUNK_ELEMENTS = 1 << 24  # that are unpacked at a time
_SECOND_LEVEL = 256  # columns of a block of GGUF's K types


def coded_refusal(storage: WeightStorage | None, columns: int) -> str | None:
    """Return why there is no CodedWeight of a matrix of this storage and width, or None if there is one."""
    if columns % CODE_COLUMNS:
        return f"{columns} columns are not a multiple of {CODE_COLUMNS}"
    if not isinstance(storage, QuantizedStorage):
        if storage is None or storage not in _READERS:
            return f"GPU kernels have no {'dense weights' if storage is None else storage.name}"
        return None
    kind = storage.kind
    if kind.encoding is not Encoding.INT4 and kind.encoding not in _WIDE and kind.encoding not in _TABLES:
        return f"GPU kernels have no {kind.encoding.name}"
    if kind.group_size < columns and kind.group_size % CODE_COLUMNS:
        return f"groups of {kind.group_size} columns are not a multiple of {CODE_COLUMNS}"
    return None


def code_quantized(quantized: QuantTensor) -> CodedWeight:
    """Convert a matrix that `coded_refusal` does not refuse, without its permutation."""
    encoding = quantized.encoding
    scales = quantized.scales if quantized.matrix_scale == 1 else scales_fp32(quantized)
    layout = CodedWeight(
        _WIDE.get(encoding, CodeKind.TABLE if encoding in _TABLES else CodeKind.NIBBLES),
        quantized.shape[1],
        quantized.codes.contiguous(),
        scales.contiguous(),
        quantized.group_size,
        quantized.row_group,
        zeros=None if quantized.zeros is None else quantized.zeros.contiguous(),
        offset=8 if encoding is Encoding.INT4 and quantized.zeros is None else 0,
    )
    if encoding in _WIDE:
        return layout
    if encoding in _TABLES:
        table = torch.tensor(TABLES[encoding], dtype=torch.float32, device=quantized.codes.device)
        layout = dataclasses.replace(layout, table=table, is_table_exact=encoding in _EXACT_TABLES)
    return dataclasses.replace(layout, codes=_by_chunks(lambda rows: _paired(unpack_nibbles(rows)), quantized.codes))


def code_blocks(blocks: GGUFRows) -> CodedWeight:
    """Convert GGUF blocks of a type that `coded_refusal` does not refuse."""
    sizes, read = _READERS[blocks.format]
    sections = blocks.rows.unflatten(1, (-1, sum(sizes))).split(sizes, dim=-1)
    return read(*(section.contiguous() for section in sections))  # views of rows with one block would stay strided


def _paired(codes: torch.Tensor) -> torch.Tensor:
    """Pack codes of up to 4 bits [rows, columns]: for 32 columns 16 bytes, the second half in the upper bits."""
    first, second = codes.unflatten(-1, (-1, 2, 16)).unbind(-2)
    return (first | second << 4).flatten(-2)


def _from_nibbles(rows: torch.Tensor) -> torch.Tensor:
    """Pack columns [rows, parts, n] whose low nibbles are a part's first n columns, and the high ones the next."""
    return _paired(torch.stack((rows & 15, rows >> 4), dim=-2).flatten(1))


def _by_chunks(convert: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
    """Convert rows of a matrix in parts, whose unpacked codes are small."""
    return torch.cat([convert(part) for part in rows.split(max(1, _CHUNK_ELEMENTS // (2 * rows[0].numel())))])


def _halves(two_bytes: torch.Tensor) -> torch.Tensor:
    """Return fp16 numbers [rows, blocks]."""
    return two_bytes.contiguous().view(torch.float16).squeeze(-1).contiguous()


def _q4_0(d: torch.Tensor, pairs: torch.Tensor) -> CodedWeight:
    codes = pairs.flatten(1)
    return CodedWeight(CodeKind.NIBBLES, 2 * codes.shape[1], codes, _halves(d), 32, offset=8)


def _q4_1(d: torch.Tensor, m: torch.Tensor, pairs: torch.Tensor) -> CodedWeight:
    codes = pairs.flatten(1)
    return CodedWeight(CodeKind.NIBBLES, 2 * codes.shape[1], codes, _halves(d), 32, minima=-_halves(m))


def _q8_0(d: torch.Tensor, codes: torch.Tensor) -> CodedWeight:
    flat = codes.flatten(1).view(torch.int8)
    return CodedWeight(CodeKind.INT8, flat.shape[1], flat, _halves(d), 32)


def _q4_k(d: torch.Tensor, dmin: torch.Tensor, packed: torch.Tensor, pairs: torch.Tensor) -> CodedWeight:
    # Low nibbles of 32 bytes are a group of columns, the high ones the next. See `blocks.py` for the 6-bit numbers.
    codes = _by_chunks(_from_nibbles, pairs.flatten(1).unflatten(1, (-1, 32)))
    low, middle, high = packed.split(4, dim=-1)
    scales = torch.cat((low & 63, high & 15 | low >> 6 << 4), dim=-1)
    minima = torch.cat((middle & 63, high >> 4 | middle >> 6 << 4), dim=-1)
    return CodedWeight(
        CodeKind.NIBBLES,
        2 * codes.shape[1],
        codes,
        scales.flatten(1).contiguous(),
        32,
        minima=minima.flatten(1).contiguous(),
        supers=_halves(d),
        super_minima=_halves(dmin),
        super_group=_SECOND_LEVEL,
    )


def _q6_k(low: torch.Tensor, high: torch.Tensor, scales: torch.Tensor, d: torch.Tensor) -> CodedWeight:
    # Low nibbles of 64 bytes are 64 columns, the high ones the next 64; pairs of bits of 32 bytes are 32 columns each.
    def upper(rows: torch.Tensor) -> torch.Tensor:
        bits = torch.stack([rows >> shift & 3 for shift in (0, 2, 4, 6)], dim=-2).flatten(1)
        parts = bits.unflatten(1, (-1, 4, 8)).unbind(-2)  # columns j, j + 8, j + 16, j + 24
        return (parts[0] | parts[2] << 2 | parts[1] << 4 | parts[3] << 6).flatten(1)

    codes = _by_chunks(_from_nibbles, low.flatten(1).unflatten(1, (-1, 64)))
    return CodedWeight(
        CodeKind.SIX_BITS,
        2 * codes.shape[1],
        codes,
        scales.flatten(1).view(torch.int8),
        16,
        upper=_by_chunks(upper, high.flatten(1).unflatten(1, (-1, 32))),
        supers=_halves(d),
        super_group=_SECOND_LEVEL,
        offset=32,
    )


# Bytes of a block's sections in order, and the function that converts them, [rows, blocks, bytes] each.
_READERS: dict[WeightFormat, tuple[list[int], Callable[..., CodedWeight]]] = {
    WeightFormat.Q4_0: ([2, 16], _q4_0),
    WeightFormat.Q4_1: ([2, 2, 16], _q4_1),
    WeightFormat.Q8_0: ([2, 32], _q8_0),
    WeightFormat.Q4_K: ([2, 2, 12, 128], _q4_k),
    WeightFormat.Q6_K: ([128, 64, 16, 2], _q6_k),
}
