"""Attention layer: fused qkv projection, rotary positions, the back end over the paged KV cache, output projection."""

import torch
from torch import nn

from models.attention.base import AttentionBackend
from models.batch import ForwardBatch, KVGroupBatch
from models.layers.linear import Linear
from models.layers.rotation import Rotation
from models.quant.base import QuantScheme
from models.spec import LayerSpec


class Attention(nn.Module):
    def __init__(
        self,
        spec: LayerSpec,
        hidden_size: int,
        *,
        backend: AttentionBackend,
        scheme: QuantScheme,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.spec = spec.attention
        self.backend = backend
        head_dim = self.spec.head_dim
        self.q_size = self.spec.num_heads * head_dim
        self.kv_size = self.spec.num_kv_heads * head_dim
        shards = {"q": self.q_size, "k": self.kv_size, "v": self.kv_size}
        self.qkv = Linear(hidden_size, shards, has_bias=spec.has_qkv_bias, scheme=scheme, dtype=dtype, device=device)
        self.out = Linear(
            self.q_size, hidden_size, has_bias=spec.has_out_bias, scheme=scheme, dtype=dtype, device=device
        )

    def forward(
        self, x: torch.Tensor, by: Rotation | None, batch: ForwardBatch, group: KVGroupBatch, kv: torch.Tensor
    ) -> torch.Tensor:
        """x: [T, hidden], normed. Writes the rows' K and V into `kv` before it attends, so that rows see themselves."""
        head_dim = self.spec.head_dim
        q, k, v = self.qkv(x).split((self.q_size, self.kv_size, self.kv_size), dim=-1)
        q, k, v = (part.unflatten(-1, (-1, head_dim)) for part in (q, k, v))  # [T, heads, D]
        if by is None:
            self.backend.write(kv, k, v, group)
        else:
            q = self.backend.rotate_and_write(kv, q, k, v, by, group)
        attended = self.backend.forward(q, kv, batch, group, self.spec)
        return self.out(attended.flatten(1))
