"""compressed-tensors checkpoints, as llmcompressor writes them: integer, FP8, MXFP8, MXFP4 and NVFP4 weights.

pack-quantized        weight_packed int32 [rows, columns * bits / 32], lowest bits first, codes counted from 0;
                      weight_shape int64: [rows, columns]; weight_zero_point int32, packed along the rows
int-, float-, naive-  weight int8 or float8_e4m3fn [rows, columns]
quantized
mxfp8-quantized       weight float8_e4m3fn [rows, columns]; weight_scale E8M0
mxfp4-pack-quantized  weight_packed uint8 [rows, columns / 2], even columns in low nibbles; weight_scale E8M0
nvfp4-pack-quantized  as mxfp4; weight_scale E4M3; weight_global_scale fp32, one number, which divides the scales;
                      input_global_scale: for rows in 4 bits, not used

weight_scale  [rows, groups] in bf16, fp16 or fp32; [blocks, blocks] for strategy block; one for strategy tensor
input_scale   one number, if activations are quantized by a static scale
"""

import torch

from models.checkpoints.base import StoredTensor
from models.checkpoints.quantized.compressed_tensors_config import Format, ModuleFormat, Strategy, read_config
from models.checkpoints.quantized.nvfp4 import gather_nvfp4
from models.checkpoints.quantized.packed_codes import permute_codes, signed_codes, sorting_permutation
from models.checkpoints.quantized.parts import E8M0, FLOATS, SINGLE_SCALE, ModulePart, Parts, check_divides, read_matrix
from models.config.hf_config import HFConfig
from models.quant.nibbles import unpack_nibbles
from models.quant.tensor import ActivationQuantization, Encoding, QuantKind, QuantTensor

_PACKED, _CODES = ".weight_packed", ".weight"


class CompressedTensors:
    """Reader of a compressed-tensors checkpoint; a module has the settings of the group whose targets name it."""

    def __init__(self, config: HFConfig) -> None:
        self._config = read_config(config)

    def module_of(self, tensor: StoredTensor) -> str | None:
        if tensor.name.endswith(_PACKED):
            return tensor.name.removesuffix(_PACKED)
        is_codes = tensor.name.endswith(_CODES) and tensor.format in ("I8", "F8_E4M3")
        return tensor.name.removesuffix(_CODES) if is_codes else None

    def gather(self, parts: Parts) -> StoredTensor:
        settings = self._config.format_of(parts)
        match settings.format:
            case Format.PACKED:
                return _gather_packed(parts, settings)
            case Format.MXFP4:
                return _gather_mxfp4(parts, settings)
            case Format.NVFP4:
                return _gather_nvfp4(parts)
            case Format.CODES | Format.MXFP8:
                return _gather_codes(parts, settings)


def _gather_codes(parts: Parts, settings: ModuleFormat) -> StoredTensor:
    codes = parts.take_matrix(_CODES, ("I8" if settings.encoding is Encoding.INT8 else "F8_E4M3",))
    rows, columns = codes.shape
    kind = _kind(parts, settings, rows, columns)
    formats = E8M0 if settings.format is Format.MXFP8 else FLOATS
    scales = parts.take(".weight_scale", formats, *_shapes(kind, rows, columns))
    zeros = parts.take(".weight_zero_point", ("I8",), *_shapes(kind, rows, columns)) if kind.has_zeros else None
    input_scale = _take_input_scale(parts, settings)

    def read() -> QuantTensor:
        zero_points = None if zeros is None else zeros.read().view(_grid(kind, rows, columns))
        return read_matrix(kind, codes.read(), scales, _grid(kind, rows, columns), zero_points, input_scale)

    return parts.stored((rows, columns), kind, read)


def _gather_packed(parts: Parts, settings: ModuleFormat) -> StoredTensor:
    bits = settings.bits
    codes = parts.take_matrix(_PACKED, ("I32",))
    shape = parts.take(".weight_shape", ("I64", "I32"), (2,))
    rows, columns = (int(size) for size in shape.read())
    is_whole = columns > 0 and columns * bits % 8 == 0
    if not is_whole or codes.shape != (rows, -(-columns * bits // 32)):
        raise parts.broken(
            f"{shape.name!r} is [{rows}, {columns}], which does not pack to {list(codes.shape)} at {bits} bits each"
        )
    kind = _kind(parts, settings, rows, columns)
    grid = _grid(kind, rows, columns)
    scales = parts.take(".weight_scale", FLOATS, *_shapes(kind, rows, columns))
    zeros = None
    if kind.has_zeros:
        zeros = parts.take(".weight_zero_point", ("I32",), (-(-rows * bits // 32), grid[1]))
    group_of = parts.take(".weight_g_idx", ("I32", "I64"), (columns,)) if settings.has_act_order else None
    input_scale = _take_input_scale(parts, settings)

    def read() -> QuantTensor:
        permutation = None
        if group_of is not None:
            permutation = sorting_permutation(group_of.read(), kind.group_size, group_of.name)
        packed = codes.read().view(torch.uint8)[:, : columns * bits // 8]
        permuted = permute_codes(signed_codes(packed, bits), permutation, bits)
        zero_points = None if zeros is None else _unpack_zeros(zeros, bits, rows)
        return read_matrix(kind, permuted, scales, grid, zero_points, input_scale, permutation)

    return parts.stored((rows, columns), kind, read)


def _gather_mxfp4(parts: Parts, settings: ModuleFormat) -> StoredTensor:
    codes = parts.take_matrix(_PACKED, ("U8",))
    rows, columns = codes.shape[0], codes.shape[1] * 2
    kind = _kind(parts, settings, rows, columns)
    grid = _grid(kind, rows, columns)
    scales = parts.take(".weight_scale", E8M0, grid)
    return parts.stored((rows, columns), kind, lambda: read_matrix(kind, codes.read(), scales, grid))


def _gather_nvfp4(parts: Parts) -> StoredTensor:
    if parts.has(".input_global_scale"):
        parts.take(".input_global_scale", FLOATS, *SINGLE_SCALE)
    divisor = parts.take(".weight_global_scale", FLOATS, *SINGLE_SCALE)
    return gather_nvfp4(parts, _PACKED, lambda: 1 / divisor.read_positive())


def _kind(parts: Parts, settings: ModuleFormat, rows: int, columns: int) -> QuantKind:
    row_group, group_size = 1, columns
    match settings.strategy:
        case Strategy.TENSOR:
            row_group = rows
        case Strategy.GROUP:
            group_size = settings.group_size
            check_divides(parts, group_size, columns, "group_size")
        case Strategy.BLOCK:
            row_group, group_size = min(settings.block[0], rows), min(settings.block[1], columns)
        case Strategy.CHANNEL | Strategy.TENSOR_GROUP:  # the latter is NVFP4's, whose groups have one size
            pass
    return QuantKind(settings.encoding, group_size, row_group, not settings.is_symmetric, settings.activation)


def _grid(kind: QuantKind, rows: int, columns: int) -> tuple[int, int]:
    """Return the shape of the scales, [over rows, over columns]."""
    return -(-rows // kind.row_group), -(-columns // kind.group_size)


def _shapes(kind: QuantKind, rows: int, columns: int) -> tuple[tuple[int, ...], ...]:
    grid = _grid(kind, rows, columns)
    return SINGLE_SCALE if grid == (1, 1) else (grid, (rows,)) if grid == (rows, 1) else (grid,)


def _take_input_scale(parts: Parts, settings: ModuleFormat) -> ModulePart | None:
    if settings.activation is not ActivationQuantization.STATIC:
        return None
    return parts.take(".input_scale", FLOATS, *SINGLE_SCALE)


def _unpack_zeros(part: ModulePart, bits: int, rows: int) -> torch.Tensor:
    """Return zero points [rows, groups] from int32 words along the rows."""
    fields = part.read().t().contiguous().view(torch.uint8)
    zeros = (unpack_nibbles(fields) if bits == 4 else fields)[:, :rows]
    return signed_codes(zeros, bits).t().contiguous()
