"""Attention layer: fused qkv projection, positions, the back end over the paged KV cache, output projection."""

from collections.abc import Callable

import torch
from torch import nn

from models.architecture.attention import QKNormScope
from models.architecture.layer import LayerSpec
from models.attention.rotary import RotaryEmbedding, rotate
from models.batch import ForwardBatch, KVGroupBatch
from models.compute import ComputeConfig
from models.kernels.row_input import IDENTITY, Prologue
from models.kv.key_center import RotatedCenter
from models.kv.layer import LayerKV
from models.layers.attention.qk_norm import make_qk_norm, qk_norm_function
from models.layers.norm import Norm
from models.linear.linear import Linear, empty_parameter
from models.linear.method import LinearMethod


class Attention(nn.Module):
    """Attention with optional norms of q and k, before or after rotary embedding.

    Parameters besides the projections: `q_norm`, `k_norm`, `heads_norm`, `sinks` [H].
    """

    def __init__(self, spec: LayerSpec, hidden_size: int, *, compute: ComputeConfig, method: LinearMethod) -> None:
        super().__init__()
        self.spec = spec.attention
        self.backend = compute.backend
        self._dtype = compute.dtype
        num_heads, num_kv_heads, head_dim = self.spec.num_heads, self.spec.num_kv_heads, self.spec.head_dim
        value_dim = self.spec.value_dim
        heads = {"q": num_heads, "k": num_kv_heads}
        if spec.has_value_matrix:
            heads["v"] = num_kv_heads
        if spec.has_output_gate:
            heads["gate"] = num_heads
        dims = {"q": head_dim, "k": head_dim, "v": value_dim, "gate": 1 if spec.gates_whole_heads else value_dim}
        self._heads = tuple((count, dims[name]) for name, count in heads.items())
        shards = {name: count * dims[name] for name, count in heads.items()}
        self._sizes = tuple(shards.values())
        self.qkv = Linear(hidden_size, shards, has_bias=spec.has_qkv_bias, method=method)
        self.out = Linear(num_heads * value_dim, hidden_size, has_bias=spec.has_out_bias, method=method)
        self._qkv_limit, self._bound_rows = spec.qkv_limit, compute.ops.bound_rows(sum(shards.values()))
        assert spec.qkv_limit is None or not spec.has_output_gate, "the gate would be bounded, too"
        self._gate_rows = compute.ops.gate_rows(value_dim if spec.gates_whole_heads else num_heads * value_dim)
        self.heads_norm = None if spec.heads_norm is None else Norm(spec.heads_norm, num_heads * value_dim)
        self._has_value_matrix, self._copy_heads = spec.has_value_matrix, compute.ops.copy_heads(head_dim)
        assert spec.has_value_matrix or value_dim == head_dim
        self._value_norm = None
        if spec.value_norm is not None:
            assert not spec.value_norm.has_weight
            self._value_norm = Norm(spec.value_norm, value_dim)
        self.sinks = empty_parameter((num_heads,), torch.float32) if self.spec.has_sinks else None
        self.alibi_slopes: torch.Tensor | None = None  # [H], once memory is allocated
        self._alibi_slopes = spec.alibi_slopes
        self._key_center: torch.Tensor | None = None  # [K, D], once center_keys was called
        self.rotated_center: RotatedCenter | None = None  # for keys in 4 bits
        self.recorded_keys: list[torch.Tensor] | None = None  # [T, K, D] fp32 each, before rotation
        self._norms: list[Callable[[torch.Tensor], torch.Tensor]] = []  # of q and k, if they have norms
        self._norms_rotated = self._norms_heads = False
        if spec.qk_norm is not None:
            assert not spec.qk_norm.is_after_rope or spec.query_temperature is None, "the norm would undo it"
            self.q_norm = make_qk_norm(spec.qk_norm, num_heads, head_dim)
            self.k_norm = make_qk_norm(spec.qk_norm, num_kv_heads, head_dim)
            self._norms = [qk_norm_function(spec.qk_norm, norm, self.backend) for norm in (self.q_norm, self.k_norm)]
            self._norms_rotated = spec.qk_norm.is_after_rope
            self._norms_heads = spec.qk_norm.scope is not QKNormScope.PROJECTION and not self._norms_rotated

    @property
    def rotates_keys_last(self) -> bool:
        """Whether nothing but rotation is done to keys before they are stored."""
        return not self._norms_rotated

    def make_constants(self, device: torch.device) -> None:
        """Make constant tensors that are not in the checkpoint (ALiBi slopes); called when memory is allocated."""
        if self._alibi_slopes is not None:
            self.alibi_slopes = torch.tensor(self._alibi_slopes, dtype=torch.float32, device=device)

    def center_keys(self, rotary: RotaryEmbedding | None) -> None:
        """Choose a constant for each head of quantized keys: the mean of their bias, rotated by all angles of `rotary`.

        Channels with a large bias, and little rotation, would set the scale of all others. Layers without a bias, or
        whose scores must not change by a constant, have none.
        """
        is_shifted = self.spec.has_sinks or self.spec.logit_softcap is not None or self._qkv_limit is not None
        if self.qkv.bias is None or is_shifted or self._norms:
            return
        first, count = self.qkv.rows("k")
        bias = self.qkv.bias[first : first + count].to(torch.float32).view(self.spec.num_kv_heads, -1)
        if rotary is not None:  # rotation is linear: by the mean of cos and sin it gives the mean
            mean = RotaryEmbedding(*(part.mean(dim=0, keepdim=True) for part in (rotary.cos, rotary.sin)))
            bias = rotate(bias[None], mean)[0]
        self._key_center = bias.clone(memory_format=torch.contiguous_format)

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
        """Return attention(norm(x)) (+ residual): [T, hidden]. residual: may be overwritten, and may be x.

        Writes the rows' K and V to `kv` before it attends, so that rows see themselves.
        """
        qkv = self.qkv(x, norm, out_dtype=self._dtype, adapter_slots=batch.adapter_slots)
        if self._qkv_limit is not None:
            qkv = self._bound_rows(qkv, self._qkv_limit)
        parts = zip(torch.split_with_sizes(qkv, self._sizes, dim=1), self._heads, strict=True)
        q, k, *rest = [part.view(len(qkv), *heads) for part, heads in parts]
        v, *gate = rest if self._has_value_matrix else (self._copied(k), *rest)
        if self._value_norm is not None:
            v = self.backend.norm_heads(v, self._value_norm)
        is_fused = self._norms_heads and rotary is not None and self.recorded_keys is None
        norms = (self.q_norm, self.k_norm) if is_fused else None
        if self._norms and not self._norms_rotated and norms is None:
            q, k = self._normed(q, k)
        if self.recorded_keys is not None:
            self.recorded_keys.append(k.to(torch.float32, copy=True))
        kv.rotated_center = self.rotated_center if kv.layout.code_dtype == torch.int4 else None
        kv.key_center = self._key_center if kv.rotated_center is None else None
        if rotary is None:
            self.backend.write(kv, k, v, group)
        elif self._norms_rotated:
            q, k = self._normed(*self.backend.rotate_heads(q, k, rotary))
            self.backend.write(kv, k, v, group)
        else:
            q = self.backend.rotate_and_write(kv, q, k, v, rotary, group, norms)
        attended = self.backend.forward(
            q, kv, batch, group, self.spec, alibi_slopes=self.alibi_slopes, sinks=self.sinks
        )
        heads = attended.flatten(1)
        if gate:
            heads = self._gate_rows(heads, gate[0].flatten(1))
        hidden: torch.Tensor = self.out(
            heads, self.heads_norm or IDENTITY, residual=residual, adapter_slots=batch.adapter_slots
        )
        return hidden

    def _copied(self, k: torch.Tensor) -> torch.Tensor:
        v = k.new_empty(k.shape)
        self._copy_heads(k, v)
        return v

    def _normed(self, q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        norm_q, norm_k = self._norms
        return norm_q(q), norm_k(k)  # [T, heads, D]
