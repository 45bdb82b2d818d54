"""bitsandbytes checkpoints: NF4 and FP4 (QLoRA, Dettmers et al. 2023), and int8 (LLM.int8(), Dettmers et al. 2022).

4 bits: weight [codes / 2, 1] uint8, the matrix row by row, even codes in *high* nibbles; weight.absmax fp32, one for
        each block of `blocksize` codes, or with double quantization uint8, with weight.nested_absmax and
        weight.nested_quant_map; weight.quant_map: the table of codes; weight.quant_state.*: JSON with shape and so on
8 bits: weight int8 [rows, columns]; SCB fp32 [rows], 127 times the scales; weight_format: 0 for rows
"""

import json
from typing import Any

import torch

from models.checkpoints.base import StoredTensor
from models.checkpoints.quantized.parts import Parts, check_divides
from models.config.hf_config import MAX_NUMBER, HFConfig
from models.errors import CheckpointError, UnsupportedModelError
from models.quant.dequantize import TABLES
from models.quant.tensor import Encoding, QuantKind, QuantTensor

_TYPES = {"nf4": Encoding.NF4, "fp4": Encoding.FP4}
_STATE = ".weight.quant_state.bitsandbytes__"
_MAX_STATE_BYTES = 4096


class BitsAndBytes:
    """Reader of the modules of one bitsandbytes checkpoint; each module states its own type."""

    def __init__(self, config: HFConfig) -> None:
        storage = config.text("bnb_4bit_quant_storage", "uint8")
        if storage != "uint8":
            raise UnsupportedModelError(
                f"{config.source}: bnb_4bit_quant_storage {storage!r} is not supported; save the model with 'uint8'"
            )

    def module_of(self, tensor: StoredTensor) -> str | None:
        is_codes = tensor.name.endswith(".weight") and tensor.format in ("U8", "I8")
        return tensor.name.removesuffix(".weight") if is_codes else None

    def gather(self, parts: Parts) -> StoredTensor:
        for name, encoding in _TYPES.items():
            if parts.has(_STATE + name):
                return _gather_4bit(parts, name, encoding)
        return _gather_int8(parts)


def _gather_int8(parts: Parts) -> StoredTensor:
    codes = parts.take_matrix(".weight", ("I8",))
    rows, columns = codes.shape
    maxima = parts.take(".SCB", ("F32",), (rows,))
    layout = parts.take(".weight_format", ("U8",), ()) if parts.has(".weight_format") else None
    # LLM.int8() rounds activations for its GEMM and leaves outliers in fp16; not rounding them is nearer to the model.
    kind = QuantKind(Encoding.INT8, columns)

    def read() -> QuantTensor:
        if layout is not None and int(layout.read()) != 0:
            raise CheckpointError(
                f"{layout.name!r} is {int(layout.read())}; save the model in bitsandbytes' row layout"
            )
        scales = maxima.read_scales()[:, None] / 127
        return QuantTensor(kind.encoding, codes.read(), scales, None, columns)

    return parts.stored((rows, columns), kind, read)


def _gather_4bit(parts: Parts, type_name: str, encoding: Encoding) -> StoredTensor:
    state = _read_state(parts, type_name)
    rows, columns, block = (state.integer(name) for name in ("rows", "columns", "blocksize"))
    check_divides(parts, block, columns, "blocksize")
    if block % 2:
        raise parts.broken(f"{parts.module!r} has a blocksize of {block}; it must be even")
    groups = columns // block
    num_blocks = rows * groups
    num_bytes = rows * columns // 2
    codes = parts.take(".weight", ("U8",), (num_bytes, 1), (1, num_bytes))
    table = parts.take(".weight.quant_map", ("F32",), (16,))
    is_nested = parts.has(".weight.nested_absmax")
    absmax = parts.take(".weight.absmax", ("U8" if is_nested else "F32",), (num_blocks,))
    if is_nested:  # double quantization; kept in 8 bits, scales would save 0.4 bits per weight
        nested_block = state.integer("nested_blocksize", 256)
        nested_absmax = parts.take(".weight.nested_absmax", ("F32",), (-(-num_blocks // nested_block),))
        nested_table = parts.take(".weight.nested_quant_map", ("F32",), (256,))
        nested_offset = state.number("nested_offset", 0.0, minimum=-MAX_NUMBER)
    kind = QuantKind(encoding, block)

    def read() -> QuantTensor:
        if not torch.allclose(table.read(), torch.tensor(TABLES[encoding]), rtol=0, atol=1e-6):
            raise CheckpointError(f"{table.name!r} is not the table of {type_name}; fetch the checkpoint again")
        packed = codes.read().view(rows, columns // 2)
        if is_nested:
            maxima = nested_absmax.read_scales().repeat_interleave(nested_block)[:num_blocks]
            scales = nested_table.read_scales()[absmax.read().int()] * maxima + nested_offset
        else:
            scales = absmax.read_scales()
        swapped = (packed << 4) | (packed >> 4)
        return QuantTensor(encoding, swapped, scales.view(rows, groups), None, block)

    return parts.stored((rows, columns), kind, read)


def _read_state(parts: Parts, type_name: str) -> HFConfig:
    """Return the JSON that bitsandbytes stores with a matrix, with `rows` and `columns` from its `shape`."""
    part = parts.take(_STATE + type_name, ("U8",))
    if len(part.shape) != 1 or part.num_bytes > _MAX_STATE_BYTES:
        raise parts.broken(f"{part.name!r} has shape {list(part.shape)}; it must be a JSON text of a few bytes")
    try:
        fields: Any = json.loads(bytes(part.read().tolist()))
    except (ValueError, RecursionError):
        raise parts.broken(f"{part.name!r} holds no JSON") from None
    if not isinstance(fields, dict) or fields.get("quant_type") != type_name:
        raise parts.broken(f"{part.name!r} does not describe a matrix in {type_name}")
    shape = fields.get("shape")
    if not isinstance(shape, list) or len(shape) != 2:
        raise parts.broken(f"{part.name!r}: shape is {shape!r}; it must be [rows, columns]")
    return HFConfig({**fields, "rows": shape[0], "columns": shape[1]}, f"{part.file}, {part.name!r}")
