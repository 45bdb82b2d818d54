"""TritonAttention: the whole batch in one to three launches, on CUDA devices from compute capability 8.0 on."""

import functools
import importlib.util
from typing import Any

import torch

from models.architecture.attention import AttentionSpec
from models.architecture.kv_layout import SCALE_DTYPE, CachePart, KVLayout, kv_dtype_name, scale_slots
from models.attention.base import AttentionBackend
from models.attention.kv_codes import has_spread_keys, quantized_kv_refusal
from models.attention.rotary import RotaryEmbedding
from models.batch import ForwardBatch, KVGroupBatch
from models.kernels.row_input import Prologue, RowInput
from models.kernels.triton.attend_shape import KV_CODES, SLOTS, AttendShape, attend_shape
from models.kernels.triton.launch import launch
from models.kernels.triton.tuned import Tiles, tiles_for
from models.kv.layer import LayerKV

_PART, _SCALES = "kv", "kv_scale"
_MAX_COLUMNS = 256
_MAX_LATENT = 512  # of values that are a part of the keys
_MAX_SPREAD = 128  # the Hadamard matrix of more does not fit beside a prefill's tiles
_LEAST_ROWS = 16  # of a tile
_MAX_SPLITS = 32
_PROGRAMS = 2  # to a multiprocessor, which splits are to make


class TritonAttention(AttentionBackend):
    """Attention by the Triton kernels.

    KV layout: one part, a tile of 16 slots with keys [num_kv_heads, 16, head_dim], then values [num_kv_heads, 16,
    value_dim]: [blocks, 2, num_kv_heads, 16, head_dim] for blocks of 16 positions and values as large as keys. Values
    that are a part of the keys have no room of their own.
    """

    name = "triton"
    is_capturable = True

    def __init__(self, sm: int | None = None, num_processors: int | None = None) -> None:
        """sm, num_processors: compute capability times 10 and multiprocessors; by default, torch is asked.
        With them, any device is taken: for kernels that are interpreted or only compiled."""
        self._device = None if sm is None else (sm, num_processors or 1)

    def norm_heads(self, x: torch.Tensor, norm: Prologue) -> torch.Tensor:
        from models.kernels.triton.norm import norm_heads  # slow to import

        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        norm_heads(x, norm.row_input, out)
        return out

    def rotate_and_write(
        self,
        kv: LayerKV,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor | None,
        rotary: RotaryEmbedding,
        group: KVGroupBatch,
        norms: tuple[Prologue, Prologue] | None = None,
    ) -> torch.Tensor:
        inputs = None if norms is None else (norms[0].row_input, norms[1].row_input)
        rotated = _rope_write(kv, q, k, v, group, (rotary.cos, rotary.sin), rotary.q_scale, inputs)
        assert rotated is not None
        return rotated

    def unsupported(
        self, spec: AttentionSpec, dtype: torch.dtype, kv_dtype: torch.dtype, device: torch.device
    ) -> str | None:
        if self._device is None and (reason := _device_refusal(device)) is not None:
            return reason
        if dtype not in (torch.bfloat16, torch.float32):
            return f"takes bfloat16 and float32, not {dtype}"
        if kv_dtype not in (torch.bfloat16, torch.float32, *KV_CODES):
            return f"stores keys and values as bfloat16, float32, int8 or fp8, not as {kv_dtype_name(kv_dtype)} yet"
        if spec.indexer is not None or spec.reuses_choice:
            return "has no kernel for layers where an indexer chooses the positions"
        if spec.values_from is not None:
            most = _MAX_COLUMNS if dtype == torch.float32 else _MAX_LATENT
            if max(spec.value_dim, spec.values_from) > most:
                return (
                    f"takes values of up to {most} numbers that are a part of the keys in {dtype}, not {spec.value_dim}"
                )
        elif (columns := max(spec.head_dim, spec.value_dim)) > _MAX_COLUMNS:
            return f"takes heads with up to {_MAX_COLUMNS} numbers, not {columns}"
        if has_spread_keys(kv_dtype, has_values=spec.values_from is None) and spec.head_dim > _MAX_SPREAD:
            return (
                f"takes int8 caches of heads with up to {_MAX_SPREAD} numbers, not {spec.head_dim}; fp8 caches of both"
            )
        return quantized_kv_refusal(spec, kv_dtype)

    def layout(self, spec: AttentionSpec, dtype: torch.dtype, kv_dtype: torch.dtype) -> KVLayout:
        size = (SLOTS * spec.num_kv_heads * spec.stored_size,)
        if kv_dtype not in KV_CODES:
            return KVLayout((CachePart(_PART, size, kv_dtype),), SLOTS, dtype)
        room = scale_slots(spec.head_dim) + (scale_slots(spec.value_dim) if spec.values_from is None else 0)
        scales = CachePart(_SCALES, (SLOTS * spec.num_kv_heads * room,), SCALE_DTYPE)
        return KVLayout((CachePart(_PART, size, torch.uint8), scales), SLOTS, dtype, code_dtype=kv_dtype)

    def write(self, kv: LayerKV, k: torch.Tensor, v: torch.Tensor | None, group: KVGroupBatch) -> None:
        if kv.layout.code_dtype is not None:
            _rope_write(kv, None, k, v, group)
            return
        # A row of padding writes what the first row does.
        sources = torch.arange(len(k), device=k.device).where(group.slot_mapping >= 0, 0)
        slots = group.slot_mapping[sources]
        tiles, offsets = slots // SLOTS, slots % SLOTS
        for rows, numbers in zip((k, v), _stored(kv.parts[_PART], k, v), strict=True):
            if rows is not None and numbers is not None:
                numbers[tiles, :, offsets] = rows[sources].to(numbers.dtype)

    def forward(
        self,
        q: torch.Tensor,
        kv: LayerKV,
        batch: ForwardBatch,
        group: KVGroupBatch,
        spec: AttentionSpec,
        *,
        alibi_slopes: torch.Tensor | None = None,
        sinks: torch.Tensor | None = None,
        chosen: torch.Tensor | None = None,
    ) -> torch.Tensor:
        assert chosen is None
        assert q.stride(1) == spec.head_dim
        from models.kernels.triton import attend  # slow to import

        code_dtype, has_values = kv.layout.code_dtype, spec.values_from is None
        is_spread = has_spread_keys(code_dtype, has_values=has_values)
        sized = functools.partial(attend_shape, spec, q.dtype, group.block_size, code_dtype, is_spread)
        sm, num_processors = self._device or _device(q.device)
        shape_class, num_sequences = _shape_class(spec, q.dtype, code_dtype), len(batch.query_lens)
        tiles = tiles_for("decode", sm, shape_class)
        longest, few = max(batch.query_lens), _few_rows(max(batch.query_lens), spec, tiles)
        out = q.new_empty((*q.shape[:2], spec.value_dim))
        sink_logits = None if sinks is None else sinks.to(torch.float32)
        bias = batch.distance_bias
        tables = group.block_tables
        kv_tensors = kv.parts[_PART], kv.parts.get(_SCALES)
        context = q, q.stride(0), *kv_tensors, tables, tables.stride(0), batch.cu_seqlens_q, batch.seq_lens
        factors = spec.scale, spec.value_scale, None if alibi_slopes is None else alibi_slopes.to(torch.float32)
        by_distance = (None, 0, 0) if bias is None else (bias.table, bias.table.stride(0), bias.zero_column)
        if min(batch.query_lens) <= few:
            shape = sized(tiles, few)
            splits = _num_splits(shape, num_sequences, tables.shape[1], num_processors)
            parts = levels = None
            if splits > 1:
                levels = q.new_empty((num_sequences, few, spec.num_heads, splits), dtype=torch.float32)
                parts = levels.new_empty((*levels.shape, spec.value_dim))
            launch(
                attend.split_decode,
                (num_sequences, spec.num_kv_heads * shape.blocks, splits),
                *(*context, *factors, sink_logits if splits == 1 else None, *by_distance, out, parts, levels),
                **_meta(shape, tiles.num_warps, tiles.num_stages),
            )
            if splits > 1:
                launch(
                    attend.merge_splits,
                    (num_sequences, spec.num_heads, few),
                    *(parts, levels, splits, batch.cu_seqlens_q, sink_logits, spec.value_scale, out),
                    **{"MOST_SPLITS": _MAX_SPLITS, "SIZE": shape.value_size, "COLUMNS": shape.value_columns},
                    **{"num_warps": 4, "num_stages": 1},
                )
        if longest > few:
            tiles = tiles_for("prefill", sm, shape_class)
            shape = sized(tiles, 0)
            launch(
                attend.mixed_prefill,
                (-(-len(q) // shape.tokens) + num_sequences, spec.num_kv_heads * shape.blocks),
                *(*context, num_sequences, few + 1, *factors, sink_logits, *by_distance, out),
                **_meta(shape, tiles.num_warps, tiles.num_stages),
            )
        return out


def _stored(numbers: torch.Tensor, k: torch.Tensor, v: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return views of the keys [tiles, num_kv_heads, 16, head_dim] and the values in a part of the cache, for rows k
    [T, num_kv_heads, head_dim] and v; None for no values."""
    end = SLOTS * k.shape[1] * k.shape[2]
    keys = numbers[:, :end].unflatten(1, (k.shape[1], SLOTS, k.shape[2]))
    if v is None:
        return keys, None
    values = numbers[:, end : end + SLOTS * v.shape[1] * v.shape[2]]
    return keys, values.unflatten(1, (v.shape[1], SLOTS, v.shape[2]))


def _rope_write(
    kv: LayerKV,
    q: torch.Tensor | None,
    k: torch.Tensor,
    v: torch.Tensor | None,
    group: KVGroupBatch,
    angles: tuple[torch.Tensor, torch.Tensor] | None = None,
    q_scale: torch.Tensor | None = None,
    norms: tuple[RowInput, RowInput] | None = None,
) -> torch.Tensor | None:
    from models.kernels.triton.rope_write import CodedCache, rope_write  # slow to import

    coded = None
    if (code_dtype := kv.layout.code_dtype) is not None:
        heads = [rows[..., :1] if rows is not None else None for rows in (k, v)]
        key_scales, value_scales = _stored(kv.parts[_SCALES], heads[0], heads[1])
        is_spread = has_spread_keys(code_dtype, has_values=v is not None)
        coded = CodedCache(KV_CODES[code_dtype], key_scales, value_scales, kv.key_center, is_spread)
    return rope_write(q, k, v, *_stored(kv.parts[_PART], k, v), group.slot_mapping, angles, q_scale, norms, coded)


def _few_rows(longest: int, spec: AttentionSpec, tiles: Tiles) -> int:
    """Return the most rows of a sequence that decode takes: all, if the longest sequence fits into a tile, or else as
    many as the smallest tile has room for. A power of two or a full tile, as each number compiles a kernel. longest:
    rows of a sequence of the batch."""
    heads = min(spec.num_heads // spec.num_kv_heads, tiles.rows)
    most = tiles.rows // heads
    if longest <= most:
        return min(most, 1 << (longest - 1).bit_length())
    return 1 << max(1, _LEAST_ROWS // heads).bit_length() - 1


def _num_splits(shape: AttendShape, num_sequences: int, num_blocks: int, num_processors: int) -> int:
    """Return how many programs share a sequence's positions: a power of two that keeps all processors busy.

    num_blocks: columns of the block tables.
    """
    programs = num_sequences * shape.kv_heads * shape.blocks
    steps = -(-num_blocks * shape.block_size // shape.positions)
    wanted = min(steps, -(-_PROGRAMS * num_processors // programs))
    return min(_MAX_SPLITS, 1 << max(0, wanted - 1).bit_length())


def _shape_class(spec: AttentionSpec, dtype: torch.dtype, code_dtype: torch.dtype | None) -> str:
    """Return the class of heads in the table of tiles."""
    columns = max(spec.head_dim, spec.value_dim)
    if dtype == torch.float32:
        return "fp32"
    size = next((str(size) for size in (64, 128, 256) if columns <= size), "latent")
    return size if code_dtype is None else f"{size} codes"


def _meta(shape: AttendShape, num_warps: int, num_stages: int) -> dict[str, Any]:
    return {"S": shape, "num_warps": num_warps, "num_stages": num_stages}


@functools.cache
def _device(device: torch.device) -> tuple[int, int]:
    """Return a CUDA device's compute capability times 10, and its number of multiprocessors."""
    properties = torch.cuda.get_device_properties(device)
    return 10 * properties.major + properties.minor, properties.multi_processor_count


def _device_refusal(device: torch.device) -> str | None:
    if device.type != "cuda":
        return f"runs on CUDA devices, not on {device}"
    if importlib.util.find_spec("triton") is None:
        return "needs the package triton, which PyTorch for CUDA installs"
    return None
