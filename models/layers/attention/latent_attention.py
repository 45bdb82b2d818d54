"""Multi-head latent attention: caches one small vector per token, from which all heads' keys and values are made."""

import torch
from torch import nn

from models.architecture.layer import LayerSpec
from models.attention.rotary import RotaryEmbedding
from models.batch import ForwardBatch, KVGroupBatch
from models.compute import ComputeConfig
from models.kernels.row_input import Prologue
from models.kv.layer import LayerKV
from models.layers.attention.indexer import Indexer
from models.layers.norm import Norm
from models.linear.linear import Linear
from models.linear.method import LinearMethod
from models.linear.per_head import PerHeadLinear


class LatentAttention(nn.Module):
    """Multi-head latent attention (LatentSpec). Caches [rotary part of the keys | normed latent] for each token.

    `qkv` has the shards "q" (queries, or their latent), "kv" (the row to cache, before norm and rotary embedding) and,
    with an output gate, "gate" (a number per head).
    `k_up` and `v_up` are the heads' W_k, transposed, and W_v.
    """

    def __init__(self, spec: LayerSpec, hidden_size: int, *, compute: ComputeConfig, method: LinearMethod) -> None:
        super().__init__()
        assert spec.latent is not None
        assert spec.heads_norm is None
        latent, self.spec, self.backend = spec.latent, spec.attention, compute.backend
        self._dtype = compute.dtype
        num_heads = self.spec.num_heads
        self.rope_dim, self.value_dim = latent.rope_dim, latent.value_dim
        query_size = num_heads * (latent.rope_dim + latent.nope_dim)
        self.shards = {"q": latent.q_rank or query_size, "kv": self.spec.head_dim}
        if spec.has_output_gate:
            self.shards["gate"] = num_heads
        self.qkv = Linear(hidden_size, self.shards, has_bias=spec.has_qkv_bias, method=method)
        self.q_norm, self.q_up = None, None
        if latent.q_rank is not None:
            self.q_norm = Norm(latent.norm, latent.q_rank)
            self.q_up = Linear(latent.q_rank, query_size, has_bias=False, method=method)
        self.indexer, self._sees_chosen = None, self.spec.indexer is not None or self.spec.reuses_choice
        if self.spec.indexer is not None:
            assert latent.q_rank is not None, "an indexer's queries are made of the queries' latent"
            self.indexer = Indexer(self.spec.indexer, hidden_size, latent.q_rank, compute=compute, method=method)
        self.kv_norm = Norm(latent.norm, latent.kv_rank)
        self.k_up = PerHeadLinear(num_heads, latent.nope_dim, latent.kv_rank, compute)
        self.v_up = PerHeadLinear(num_heads, latent.kv_rank, latent.value_dim, compute)
        self.out = Linear(num_heads * latent.value_dim, hidden_size, has_bias=spec.has_out_bias, method=method)
        self._gate_rows = compute.ops.gate_rows(latent.value_dim)
        self._copy_heads = compute.ops.copy_heads(latent.rope_dim)

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
        """Return attention(norm(x)) (+ residual, which may be overwritten): [T, hidden]. Writes rows to `kv` first."""
        slots = batch.adapter_slots
        both = self.qkv(x, norm, out_dtype=self._dtype, adapter_slots=slots)
        q, row, *gate = torch.split_with_sizes(both, list(self.shards.values()), dim=1)
        if self.indexer is not None:
            assert self.q_norm is not None
            assert rotary is not None
            batch.choice.positions = self.indexer(x, norm, q, self.q_norm, rotary, batch, group, kv)
        if self.q_up is not None:
            assert self.q_norm is not None
            q = self.q_up(q, self.q_norm, adapter_slots=slots)
        latent = row[:, None, self.rope_dim :]
        normed = self.backend.norm_heads(latent, self.kv_norm)
        if normed is not latent:  # not in place: a gradient needs what was there
            row = torch.cat((row[:, : self.rope_dim], normed.squeeze(1)), dim=1)
        q = self._absorbed_queries(q)
        if rotary is None:
            self.backend.write(kv, row.unsqueeze(1), None, group)
        else:
            q = self.backend.rotate_and_write(kv, q, row.unsqueeze(1), None, rotary, group)
        chosen = batch.choice.positions if self._sees_chosen else None
        attended = self.backend.forward(q, kv, batch, group, self.spec, chosen=chosen)  # [T, H, kv_rank]
        heads = self.v_up(attended, attended.new_empty(*attended.shape[:2], self.value_dim)).flatten(1)
        if gate:
            heads = self._gate_rows(heads, gate[0])
        hidden: torch.Tensor = self.out(heads, residual=residual, adapter_slots=slots)
        return hidden

    def _absorbed_queries(self, q: torch.Tensor) -> torch.Tensor:
        """Absorb W_k into queries [T, H * (rope_dim + nope_dim)]. Returns [T, H, rope_dim + kv_rank]."""
        q = q.view(len(q), self.spec.num_heads, -1)
        queries = q.new_empty(*q.shape[:2], self.spec.head_dim)
        self._copy_heads(q[..., : self.rope_dim], queries[..., : self.rope_dim])
        self.k_up(q[..., self.rope_dim :], queries[..., self.rope_dim :])
        return queries
