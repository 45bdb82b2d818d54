"""CpuAttention: one call of the C++ kernel for the whole batch, on x86-64 and ARM64, in bf16 and fp32."""

from collections.abc import Sequence

import torch

from models.architecture.attention import AttentionSpec, IndexerSpec
from models.architecture.kv_layout import CODE_DTYPES, SCALE_DTYPE, CachePart, KVLayout, code_bytes, scale_slots
from models.attention.base import INDEX_PART, AttentionBackend
from models.attention.kv_codes import quantized_kv_refusal
from models.attention.rotary import RotaryEmbedding
from models.batch import ForwardBatch, KVGroupBatch
from models.kernels.cpu.library import KernelLibrary, address, kernel_library
from models.kernels.row_input import Prologue
from models.kv.key_center import RotatedCenter
from models.kv.layer import LayerKV

_TILE = 16  # slots; kTile of kv_layout.h
_PART = "kv"
# KvCode of kv_codes.h
_CODES = {None: 0, torch.int8: 1, torch.float8_e4m3fn: 2, torch.float8_e5m2: 3, torch.int4: 4}
_MAX_HEAD_DIM = 576  # kMaxDim of attention.cpp


class CpuAttention(AttentionBackend):
    """Attention by the C++ kernels.

    KV layout: one part, [tiles of 16 slots, num_kv_heads, 16 * (head_dim + value_dim)], whose inner order kv_layout.h
    defines. If values are part of the keys, it has no room for them. An indexer's keys are a second such part. Codes
    and their scales are bytes of the first part, whose order kv_codes.h defines.
    """

    name = "cpu"

    def __init__(self, library: KernelLibrary | None = None) -> None:
        """library: the kernel library, by default the one for this processor."""
        self._library = library or kernel_library()

    def unsupported(
        self, spec: AttentionSpec, dtype: torch.dtype, kv_dtype: torch.dtype, device: torch.device
    ) -> str | None:
        if device.type != "cpu":
            return f"runs on the CPU, not on {device}"
        if dtype not in (torch.bfloat16, torch.float32):
            return f"takes bfloat16 and float32, not {dtype}"
        if kv_dtype != dtype and kv_dtype not in CODE_DTYPES:
            return f"stores keys and values in the dtype that it computes in, {dtype}, or as codes, not in {kv_dtype}"
        if (refusal := quantized_kv_refusal(spec, kv_dtype)) is not None:
            return refusal
        for name, size in (("head", spec.head_dim), ("value", spec.value_dim)):
            if size % 16 or size > _MAX_HEAD_DIM:
                return f"takes {name} sizes that are a multiple of 16 up to {_MAX_HEAD_DIM}, not {size}"
        if (indexer := spec.indexer) is not None and (indexer.head_dim % 16 or indexer.head_dim > _MAX_HEAD_DIM):
            return f"takes indexers with key sizes that are a multiple of 16, not {indexer.head_dim}"
        if self._library is None:
            return "the C++ kernels are not available (the reason is in the log)"
        return None

    def layout(self, spec: AttentionSpec, dtype: torch.dtype, kv_dtype: torch.dtype) -> KVLayout:
        if kv_dtype in CODE_DTYPES:
            position_bytes = _coded_bytes(spec.head_dim, kv_dtype, is_key=True)
            if spec.values_from is None:
                position_bytes += _coded_bytes(spec.value_dim, kv_dtype, is_key=False)
            part = CachePart(_PART, (spec.num_kv_heads, _TILE * position_bytes), torch.uint8)
            return KVLayout((part,), _TILE, dtype, code_dtype=kv_dtype)
        parts = [CachePart(_PART, (spec.num_kv_heads, _TILE * spec.stored_size), kv_dtype)]
        if spec.indexer is not None:
            parts.append(CachePart(INDEX_PART, (1, _TILE * spec.indexer.head_dim), kv_dtype))
        return KVLayout(tuple(parts), _TILE, dtype)

    def norm_heads(self, x: torch.Tensor, norm: Prologue) -> torch.Tensor:
        assert self._library is not None
        num_rows, num_heads, columns = x.shape
        spec = norm.row_input
        assert spec.weight is not None
        self._library.norm_heads(
            *(x.dtype == torch.bfloat16, x.data_ptr(), x.stride(0), x.stride(1), num_rows, num_heads, columns),
            *(spec.kind, spec.weight.data_ptr(), columns if spec.weight.dim() == 2 else 0),
            *(address(spec.bias), spec.eps),
        )
        return x

    def rotate_heads(
        self, q: torch.Tensor, k: torch.Tensor, rotary: RotaryEmbedding
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self._rope_kv_write(None, q, k, None, rotary._replace(q_scale=None), None)
        return q, k

    def rotate_queries(self, q: torch.Tensor, rotary: RotaryEmbedding) -> torch.Tensor:
        self._rope_kv_write(None, q, q[:, :0], None, rotary, None)
        return q

    def write(self, kv: LayerKV, k: torch.Tensor, v: torch.Tensor | None, group: KVGroupBatch) -> None:
        self._rope_kv_write(kv.parts[_PART], None, k, v, None, group, kv.layout.code_dtype, kv.key_center)

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
        if norms is not None:
            q, k = self.norm_heads(q, norms[0]), self.norm_heads(k, norms[1])
        early = None if kv.rotated_center is None else kv.rotated_center.heads
        self._rope_kv_write(kv.parts[_PART], q, k, v, rotary, group, kv.layout.code_dtype, kv.key_center, early)
        return q

    def rotate_and_write_index(
        self, kv: LayerKV, q: torch.Tensor | None, k: torch.Tensor, rotary: RotaryEmbedding, group: KVGroupBatch
    ) -> torch.Tensor | None:
        self._rope_kv_write(kv.parts[INDEX_PART], q, k, None, rotary._replace(q_scale=None), group)
        return q

    def choose(
        self,
        q: torch.Tensor,
        weights: torch.Tensor,
        kv: LayerKV,
        batch: ForwardBatch,
        group: KVGroupBatch,
        indexer: IndexerSpec,
    ) -> torch.Tensor:
        assert self._library is not None
        assert q.dtype == kv.parts[INDEX_PART].dtype
        assert weights.dtype == torch.float32
        assert (q.stride(1), weights.stride(1)) == (indexer.head_dim, 1)
        chosen = torch.empty((len(q), indexer.topk), dtype=torch.int32)
        self._library.choose_positions(
            *(q.dtype == torch.bfloat16, q.data_ptr(), q.stride(0), weights.data_ptr(), weights.stride(0)),
            *(kv.parts[INDEX_PART].data_ptr(), batch.cu_seqlens_q.data_ptr(), batch.seq_lens.data_ptr()),
            *(group.block_tables.data_ptr(), group.block_tables.stride(0), len(batch.query_lens), group.block_size),
            *(indexer.num_heads, indexer.head_dim, indexer.topk, chosen.data_ptr()),
        )
        return chosen

    def _rope_kv_write(
        self,
        kv: torch.Tensor | None,
        q: torch.Tensor | None,
        k: torch.Tensor,
        v: torch.Tensor | None,
        rotary: RotaryEmbedding | None,
        group: KVGroupBatch | None,
        code_dtype: torch.dtype | None = None,
        key_center: torch.Tensor | None = None,
        early_centers: torch.Tensor | None = None,
    ) -> None:
        """Rotate q and k in place if `rotary` is given, and store k and v if `kv` is given, as codes if it has a dtype.

        early_centers: [2, K, D], subtracted before rotation, from rows at position 0 and from others. q, k and v may be
        strided views of a fused projection.
        """
        assert self._library is not None
        num_tokens, num_kv_heads, head_dim = k.shape
        assert key_center is None or (key_center.shape == k.shape[1:] and key_center.is_contiguous())
        assert early_centers is None or (early_centers.shape[1:] == k.shape[1:] and early_centers.is_contiguous())
        value_dim = 0 if v is None else v.shape[2]
        if kv is not None and code_dtype is None:
            assert (kv.dtype, kv.shape[2]) == (k.dtype, _TILE * (head_dim + value_dim))
        for tensor in (q, v):
            assert tensor is None or tensor.dtype == k.dtype
        for tensor in (q, k, v):
            assert tensor is None or tensor.stride(1) == tensor.shape[2]
        self._library.rope_kv_write(
            *(k.dtype == torch.bfloat16, address(q), 0 if q is None else q.stride(0)),
            *(k.data_ptr(), k.stride(0), address(v), 0 if v is None else v.stride(0)),
            *_rotary_arguments(rotary),
            *(None if group is None else group.slot_mapping.data_ptr(), address(kv)),
            *(
                num_tokens,
                0 if q is None else q.shape[1],
                num_kv_heads,
                head_dim,
                value_dim,
                _CODES[code_dtype],
                address(key_center),
                address(early_centers),
            ),
        )

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
        assert self._library is not None
        stored = kv.parts[_PART]
        assert q.dtype == kv.layout.compute_dtype
        assert q.stride(1) == spec.head_dim
        out = torch.empty((*q.shape[:2], spec.value_dim), dtype=q.dtype)
        slopes = None if alibi_slopes is None else alibi_slopes.to(torch.float32).contiguous()
        bias = batch.distance_bias
        sink_logits = None if sinks is None else sinks.to(torch.float32).contiguous()
        self._library.paged_attention(
            *(q.dtype == torch.bfloat16, q.data_ptr(), q.stride(0), out.data_ptr(), stored.data_ptr()),
            *(batch.cu_seqlens_q.data_ptr(), batch.seq_lens.data_ptr()),
            *(group.block_tables.data_ptr(), group.block_tables.stride(0), len(batch.query_lens)),
            *(spec.num_heads, spec.num_kv_heads, spec.head_dim, spec.value_dim),
            *(-1 if spec.values_from is None else spec.values_from, group.block_size, spec.value_scale, spec.scale),
            *(spec.sliding_window or 0, spec.chunk or 0, spec.is_causal),
            spec.logit_softcap or 0.0,
            *(address(slopes), address(sink_logits)),
            *((None, 0, 0) if bias is None else (bias.table.data_ptr(), bias.table.stride(0), bias.zero_column)),
            *((None, 0) if chosen is None else (chosen.data_ptr(), chosen.shape[1])),
            _CODES[kv.layout.code_dtype],
            *_center_arguments(kv.rotated_center, batch.context_lens),
        )
        return out


def _coded_bytes(size: int, code_dtype: torch.dtype, *, is_key: bool) -> int:
    return sum(code_bytes(size, code_dtype, is_key=is_key)) + SCALE_DTYPE.itemsize * scale_slots(size)


def _center_arguments(
    center: RotatedCenter | None, context_lens: Sequence[int]
) -> tuple[int | None, int | None, int | None, int | None, int, int]:
    """Return centers, tables of bases, offsets and terms, rotary_dim and fast_pairs as the kernel takes them."""
    if center is None:
        return None, None, None, None, 0, 0
    rotation = center.rotation
    assert max(context_lens) <= rotation.max_len
    tables = (center.heads.data_ptr(), rotation.bases.data_ptr(), rotation.offsets.data_ptr(), address(rotation.terms))
    return *tables, 2 * len(rotation.frequencies), rotation.num_fast


def _rotary_arguments(rotary: RotaryEmbedding | None) -> tuple[int | None, int | None, int, int | None]:
    """Return cos, sin, rotary_dim and q_scale as the kernel takes them."""
    if rotary is None:
        return None, None, 0, None
    return rotary.cos.data_ptr(), rotary.sin.data_ptr(), 2 * rotary.cos.shape[1], address(rotary.q_scale)
