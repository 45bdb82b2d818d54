"""MixedKV: a second layout of the KV cache, for tests that no code beside back ends depends on the first."""

import torch

from models.architecture.attention import AttentionSpec
from models.architecture.kv_layout import CachePart, KVLayout
from models.attention.base import INDEX_PART
from models.attention.reference import ReferenceAttention


class MixedKV(ReferenceAttention):
    """Keys in fp32 and values in bf16, whatever the dtype of arithmetic."""

    name = "mixed"

    def layout(self, spec: AttentionSpec, dtype: torch.dtype, kv_dtype: torch.dtype) -> KVLayout:  # noqa: ARG002
        parts = [CachePart("k", (spec.num_kv_heads, spec.head_dim), torch.float32)]
        if spec.values_from is None:
            parts.append(CachePart("v", (spec.num_kv_heads, spec.value_dim), torch.bfloat16))
        if spec.indexer is not None:
            parts.append(CachePart(INDEX_PART, (1, spec.indexer.head_dim), torch.float32))
        return KVLayout(tuple(parts), 1, dtype)
