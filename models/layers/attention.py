"""Attention layer: fused qkv projection, positions, the back end over the paged KV cache, output projection."""

from collections.abc import Callable

import torch
from torch import nn

from models.architecture.layer import LayerSpec
from models.attention.rotary import RotaryEmbedding
from models.batch import ForwardBatch, KVGroupBatch
from models.compute import ComputeConfig
from models.kernels.row_input import Prologue
from models.kv.layer import LayerKV
from models.layers.qk_norm import make_qk_norm, qk_norm_function
from models.linear.linear import Linear, empty_parameter
from models.linear.method import LinearMethod

_Pairwise = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class Attention(nn.Module):
    """Attention. Norms of q and k, rotary embedding and temperature are bound when the layer is built.

    Parameters besides the projections: `q_norm`, `k_norm`, `sinks` [H].
    """

    def __init__(self, spec: LayerSpec, hidden_size: int, *, compute: ComputeConfig, method: LinearMethod) -> None:
        super().__init__()
        self.spec = spec.attention
        self.backend = compute.backend
        self._dtype = compute.dtype
        num_heads, num_kv_heads, head_dim = self.spec.num_heads, self.spec.num_kv_heads, self.spec.head_dim
        heads = {"q": num_heads, "k": num_kv_heads, "v": num_kv_heads}
        if spec.has_output_gate:
            heads["gate"] = num_heads
        self.heads = tuple(heads.values())
        shards = {name: count * head_dim for name, count in heads.items()}
        self.qkv = Linear(hidden_size, shards, has_bias=spec.has_qkv_bias, method=method)
        self.out = Linear(num_heads * head_dim, hidden_size, has_bias=spec.has_out_bias, method=method)
        self._gate_rows = compute.ops.gate_rows(num_heads * head_dim)
        self.sinks = empty_parameter((num_heads,), torch.float32) if self.spec.has_sinks else None
        self.alibi_slopes: torch.Tensor | None = None  # [H], once memory is allocated
        self._alibi_slopes = spec.alibi_slopes
        self._norm_qk: _Pairwise = _unchanged
        self._norm_rotated_qk: _Pairwise = _unchanged
        if spec.qk_norm is not None:
            self.q_norm = make_qk_norm(spec.qk_norm, num_heads, head_dim)
            self.k_norm = make_qk_norm(spec.qk_norm, num_kv_heads, head_dim)
            norms = _pairwise(
                *(qk_norm_function(spec.qk_norm, norm, self.backend) for norm in (self.q_norm, self.k_norm))
            )
            if spec.qk_norm.is_after_rope:
                self._norm_rotated_qk = norms
            else:
                self._norm_qk = norms
        self._rotate_and_store = self._choose_rotate_and_store(spec)

    def make_constants(self, device: torch.device) -> None:
        """Make tensors that are not in the checkpoint; called when memory is allocated."""
        if self._alibi_slopes is not None:
            self.alibi_slopes = torch.tensor(self._alibi_slopes, dtype=torch.float32, device=device)

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
        """Return attention(norm(x)) (+ residual, used up; it may be x): [T, hidden].

        Writes the rows' K and V to `kv` before it attends, so that rows see themselves.
        """
        qkv = self.qkv(x, norm, out_dtype=self._dtype, adapter_slots=batch.adapter_slots)
        q, k, v, *gate = torch.split_with_sizes(qkv.view(len(qkv), -1, self.spec.head_dim), self.heads, dim=1)
        q, k = self._norm_qk(q, k)  # [T, heads, D]
        q = self._rotate_and_store(kv, q, k, v, rotary, group)
        attended = self.backend.forward(
            q, kv, batch, group, self.spec, alibi_slopes=self.alibi_slopes, sinks=self.sinks
        )
        heads = attended.flatten(1)
        if gate:
            heads = self._gate_rows(heads, gate[0].flatten(1))
        hidden: torch.Tensor = self.out(heads, residual=residual, adapter_slots=batch.adapter_slots)
        return hidden

    # --- (kv, q, k, v, rotary, group) -> q as attention takes it; k and v are stored ----------------------------------

    def _choose_rotate_and_store(self, spec: LayerSpec) -> Callable[..., torch.Tensor]:
        if spec.rope is None and spec.query_temperature is None:
            return self._store_only
        if spec.qk_norm is None or not spec.qk_norm.is_after_rope:
            return self._rotate_then_store
        assert spec.query_temperature is None, "the norm would undo it"
        return self._rotate_norm_store

    def _store_only(
        self, kv: LayerKV, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, _: object, group: KVGroupBatch
    ) -> torch.Tensor:
        self.backend.write(kv, k, v, group)
        return q

    def _rotate_then_store(
        self,
        kv: LayerKV,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        rotary: RotaryEmbedding,
        group: KVGroupBatch,
    ) -> torch.Tensor:
        return self.backend.rotate_and_write(kv, q, k, v, rotary, group)

    def _rotate_norm_store(
        self,
        kv: LayerKV,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        rotary: RotaryEmbedding,
        group: KVGroupBatch,
    ) -> torch.Tensor:
        q, k = self._norm_rotated_qk(*self.backend.rotate_heads(q, k, rotary))
        self.backend.write(kv, k, v, group)
        return q


def _unchanged(q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return q, k


def _pairwise(
    norm_q: Callable[[torch.Tensor], torch.Tensor], norm_k: Callable[[torch.Tensor], torch.Tensor]
) -> _Pairwise:
    return lambda q, k: (norm_q(q), norm_k(k))
