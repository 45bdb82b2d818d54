"""Decoder: the one decoder-only transformer, composed from a DecoderSpec when built."""

from collections.abc import Sequence

import torch
from torch import nn

from models.attention.base import AttentionBackend
from models.batch import ForwardBatch, KVGroupBatch
from models.layers.attention import Attention
from models.layers.embedding import Embedding
from models.layers.linear import Linear
from models.layers.mlp import make_mlp
from models.layers.norm import make_norm
from models.layers.rope import inverse_frequencies
from models.layers.rotation import Rotation, rotation
from models.quant.base import QuantScheme
from models.spec import DecoderSpec, LayerSpec


class DecoderLayer(nn.Module):
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
        self.attn_norm = make_norm(spec.norm, hidden_size, dtype=dtype, device=device)
        self.attn = Attention(spec, hidden_size, backend=backend, scheme=scheme, dtype=dtype, device=device)
        self.mlp_norm = make_norm(spec.norm, hidden_size, dtype=dtype, device=device)
        self.mlp = make_mlp(spec.mlp, hidden_size, scheme=scheme, dtype=dtype, device=device)

    def forward(
        self, x: torch.Tensor, by: Rotation | None, batch: ForwardBatch, group: KVGroupBatch, kv: torch.Tensor
    ) -> torch.Tensor:
        x = x + self.attn(self.attn_norm(x), by, batch, group, kv)
        return x + self.mlp(self.mlp_norm(x))


class Decoder(nn.Module):
    """Token ids to hidden states to logits. Parameters are uninitialised until the loader fills them.

    Invariant: nothing of the batch or of the KV cache outlives a call, so one instance serves any number of caches.
    """

    def __init__(
        self,
        spec: DecoderSpec,
        *,
        backend: AttentionBackend,
        scheme: QuantScheme,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.spec = spec
        hidden_size = spec.hidden_size
        self.embed = Embedding(spec.vocab_size, hidden_size, dtype=dtype, device=device)
        self.positions = (
            Embedding(spec.max_position, hidden_size, dtype=dtype, device=device)
            if spec.has_learned_positions
            else None
        )
        self.layers = nn.ModuleList(
            DecoderLayer(layer, hidden_size, backend=backend, scheme=scheme, dtype=dtype, device=device)
            for layer in spec.layers
        )
        self.norm = make_norm(spec.final_norm, hidden_size, dtype=dtype, device=device)
        head_device = torch.device("meta") if spec.has_tied_head else device  # a tied head has no memory of its own
        self.head = Linear(hidden_size, spec.vocab_size, has_bias=False, scheme=scheme, dtype=dtype, device=head_device)
        if spec.has_tied_head:
            self.head.weight = self.embed.weight
        # Layers that turn alike share one rotation a step. Not buffers: `to(dtype)` must never round them.
        ropes = list(dict.fromkeys(layer.rope for layer in spec.layers if layer.rope is not None))
        self.frequencies = [inverse_frequencies(rope, device) for rope in ropes]
        self.rope_of_layer = [None if layer.rope is None else ropes.index(layer.rope) for layer in spec.layers]

    def forward(self, batch: ForwardBatch, kv: Sequence[torch.Tensor]) -> torch.Tensor:
        """Final hidden states [T, hidden] of the batch's rows; writes their K and V into `kv`, one tensor a layer."""
        x = self.embed(batch.token_ids)
        if self.positions is not None:
            x = x + self.positions(batch.positions)
        rotations = [rotation(batch.positions, frequencies) for frequencies in self.frequencies]
        group = batch.groups[0]  # one group: layers with a window keep their whole context too
        for layer, rope, layer_kv in zip(self.layers, self.rope_of_layer, kv, strict=True):
            x = layer(x, None if rope is None else rotations[rope], batch, group, layer_kv)
        return self.norm(x)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden [L, hidden], the rows that matter of forward's result, to logits [L, V] in fp32."""
        return self.head(hidden).to(torch.float32)
