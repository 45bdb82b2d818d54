"""SharedAttention: attention over the keys and values of an earlier layer."""

import torch
from torch import nn

from models.architecture.layer import LayerSpec
from models.attention.rotary import RotaryEmbedding
from models.batch import ForwardBatch, KVGroupBatch
from models.compute import ComputeConfig
from models.kernels.row_input import IDENTITY, Prologue
from models.kv.layer import LayerKV
from models.layers.attention.qk_norm import make_qk_norm, qk_norm_function
from models.linear.linear import Linear
from models.linear.method import LinearMethod


class SharedAttention(nn.Module):
    """Attention of a layer that has only queries. It reads what `LayerSpec.kv_layer` wrote, and writes nothing.

    `qkv` has the shard "q" alone.
    """

    def __init__(self, spec: LayerSpec, hidden_size: int, *, compute: ComputeConfig, method: LinearMethod) -> None:
        super().__init__()
        self.spec = spec.attention
        assert not any((self.spec.has_sinks, self.spec.has_alibi, spec.has_output_gate))
        assert spec.qkv_limit is None
        assert spec.heads_norm is None
        assert spec.qk_norm is None or not spec.qk_norm.is_after_rope
        self.backend = compute.backend
        self._dtype = compute.dtype
        num_heads, head_dim = self.spec.num_heads, self.spec.head_dim
        self.qkv = Linear(hidden_size, {"q": num_heads * head_dim}, has_bias=spec.has_qkv_bias, method=method)
        self.out = Linear(num_heads * head_dim, hidden_size, has_bias=spec.has_out_bias, method=method)
        self._norm_queries = None
        if spec.qk_norm is not None:
            self.q_norm = make_qk_norm(spec.qk_norm, num_heads, head_dim)
            self._norm_queries = qk_norm_function(spec.qk_norm, self.q_norm, self.backend)

    def forward(
        self,
        x: torch.Tensor,
        norm: Prologue,
        rotary: RotaryEmbedding | None,
        batch: ForwardBatch,
        group: KVGroupBatch,
        kv: LayerKV,
        residual: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return attention(norm(x)) (+ residual, overwritten; may be x): [T, hidden].

        group, kv: of the earlier layer.
        """
        rows = self.qkv(x, norm, out_dtype=self._dtype, adapter_slots=batch.adapter_slots)
        q = rows.view(len(rows), -1, self.spec.head_dim)
        if self._norm_queries is not None:
            q = self._norm_queries(q)
        if rotary is not None:
            q = self.backend.rotate_queries(q, rotary)
        attended = self.backend.forward(q, kv, batch, group, self.spec)
        hidden: torch.Tensor = self.out(
            attended.flatten(1), IDENTITY, residual=residual, adapter_slots=batch.adapter_slots
        )
        return hidden
