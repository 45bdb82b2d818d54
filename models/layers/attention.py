"""Attention layer: fused qkv projection, rotary positions, the back end over the paged KV cache, output projection."""

import torch
from torch import nn

from models.attention.base import AttentionBackend
from models.batch import ForwardBatch, KVGroupBatch
from models.layers.linear import Linear
from models.layers.prologue import Prologue
from models.layers.rotation import Rotation
from models.quant.base import QuantScheme
from models.spec import LayerSpec


class Attention(nn.Module):
    def __init__(self, spec: LayerSpec, hidden_size: int, *, backend: AttentionBackend, scheme: QuantScheme) -> None:
        super().__init__()
        self.spec = spec.attention
        self.backend = backend
        head_dim = self.spec.head_dim
        self.heads = (self.spec.num_heads, self.spec.num_kv_heads, self.spec.num_kv_heads)
        q_size, kv_size = self.spec.num_heads * head_dim, self.spec.num_kv_heads * head_dim
        shards = {"q": q_size, "k": kv_size, "v": kv_size}
        self.qkv = Linear(hidden_size, shards, has_bias=spec.has_qkv_bias, scheme=scheme)
        self.out = Linear(q_size, hidden_size, has_bias=spec.has_out_bias, scheme=scheme)

    def forward(
        self,
        x: torch.Tensor,
        norm: Prologue,
        by: Rotation | None,
        batch: ForwardBatch,
        group: KVGroupBatch,
        kv: torch.Tensor,
    ) -> torch.Tensor:
        """x + attention(norm(x)), x used up: [T, hidden].

        Writes the rows' K and V into `kv` before it attends, so that rows see themselves.
        """
        qkv = self.qkv(x, norm, out_dtype=kv.dtype)
        q, k, v = torch.split_with_sizes(qkv.view(len(qkv), -1, self.spec.head_dim), self.heads, dim=1)  # [T, heads, D]
        if by is None:
            self.backend.write(kv, k, v, group)
        else:
            q = self.backend.rotate_and_write(kv, q, k, v, by, group)
        attended = self.backend.forward(q, kv, batch, group, self.spec)
        hidden: torch.Tensor = self.out(attended.flatten(1), residual=x)
        return hidden
