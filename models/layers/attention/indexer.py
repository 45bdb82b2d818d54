"""Indexer: chooses the positions that latent attention reads, by queries, keys and weights of its own."""

import torch
from torch import nn

from models.architecture.attention import IndexerSpec
from models.attention.rotary import RotaryEmbedding
from models.batch import ForwardBatch, KVGroupBatch
from models.compute import ComputeConfig
from models.kernels.row_input import Prologue
from models.kv.layer import LayerKV
from models.layers.norm import Norm
from models.linear.linear import Linear
from models.linear.method import LinearMethod


class Indexer(nn.Module):
    """The choice of an IndexerSpec, with its own part of the layer's KV cache.

    `q_up` makes the queries of the same latent as the layer's; `k` and `weights` make the keys, and a weight for each
    head, of the layer's input.
    """

    def __init__(
        self, spec: IndexerSpec, hidden_size: int, q_rank: int, *, compute: ComputeConfig, method: LinearMethod
    ) -> None:
        super().__init__()
        self.spec, self.backend, self._dtype = spec, compute.backend, compute.dtype
        self.q_up = Linear(q_rank, spec.num_heads * spec.head_dim, has_bias=False, method=method)
        self.k = Linear(hidden_size, spec.head_dim, has_bias=False, method=method)
        self.k_norm = Norm(spec.norm, spec.head_dim)
        self.weights = Linear(hidden_size, spec.num_heads, has_bias=False, method=method)

    def forward(
        self,
        x: torch.Tensor,
        norm: Prologue,
        q_latent: torch.Tensor,
        q_norm: Prologue,
        rotary: RotaryEmbedding,
        batch: ForwardBatch,
        group: KVGroupBatch,
        kv: LayerKV,
    ) -> torch.Tensor | None:
        """Write the rows' keys to `kv`, and return the positions that the rows see, as AttentionBackend.choose does.

        Returns None if all rows see their whole context, because no sequence of the batch has more than `topk` tokens.
        x: the layer's input, [T, hidden]. q_latent: of the queries, [T, q_rank], before `q_norm`.
        """
        slots = batch.adapter_slots
        k = self.k(x, norm, out_dtype=self._dtype, adapter_slots=slots)
        keys = self.backend.norm_heads(k.unsqueeze(1), self.k_norm)
        if max(batch.context_lens) <= self.spec.topk:
            self.backend.rotate_and_write_index(kv, None, keys, rotary, group)
            return None
        q = self.q_up(q_latent, q_norm, adapter_slots=slots)
        q = self.backend.rotate_and_write_index(kv, q.unflatten(1, (self.spec.num_heads, -1)), keys, rotary, group)
        assert q is not None
        weights = self.weights(x, norm, out_dtype=torch.float32, adapter_slots=slots)
        return self.backend.choose(q, weights, kv, batch, group, self.spec)
