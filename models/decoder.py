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
    def __init__(self, spec: LayerSpec, hidden_size: int, *, backend: AttentionBackend, scheme: QuantScheme) -> None:
        super().__init__()
        self.attn_norm = make_norm(spec.norm, hidden_size)
        self.attn = Attention(spec, hidden_size, backend=backend, scheme=scheme)
        self.mlp_norm = make_norm(spec.norm, hidden_size)
        self.mlp = make_mlp(spec.mlp, hidden_size, scheme=scheme)

    def forward(
        self, x: torch.Tensor, by: Rotation | None, batch: ForwardBatch, group: KVGroupBatch, kv: torch.Tensor
    ) -> torch.Tensor:
        """x [T, hidden], used up. The norms are not called here: they are prologues of the layers that follow them."""
        x = self.attn(x, self.attn_norm, by, batch, group, kv)
        return self.mlp(x, self.mlp_norm)


class Decoder(nn.Module):
    """Token ids to hidden states to logits.

    Built without memory: the loader assigns tensors, may let layers `store_as` another scheme, and then allocates and
    fills. Invariant: nothing of the batch or of the KV cache outlives a call, so one instance serves any number of
    caches.
    """

    def __init__(
        self, spec: DecoderSpec, *, backend: AttentionBackend, scheme: QuantScheme, dtype: torch.dtype
    ) -> None:
        """scheme: of all linear layers at first. dtype: of activations and KV cache."""
        super().__init__()
        self.spec = spec
        self.dtype = dtype
        self.residual_dtype = dtype  # of what flows from layer to layer
        hidden_size = spec.hidden_size
        self.embed = Embedding(spec.vocab_size, hidden_size, scheme=scheme)
        self.positions = (
            Embedding(spec.max_position, hidden_size, scheme=scheme) if spec.has_learned_positions else None
        )
        self.layers = nn.ModuleList(
            DecoderLayer(layer, hidden_size, backend=backend, scheme=scheme) for layer in spec.layers
        )
        self.norm = make_norm(spec.final_norm, hidden_size)
        self.head = (
            self.embed if spec.has_tied_head else Linear(hidden_size, spec.vocab_size, has_bias=False, scheme=scheme)
        )
        # Layers that turn alike share one rotation a step.
        self.ropes = list(dict.fromkeys(layer.rope for layer in spec.layers if layer.rope is not None))
        self.rope_of_layer = [None if layer.rope is None else self.ropes.index(layer.rope) for layer in spec.layers]
        self.frequencies: list[torch.Tensor] = []

    def allocate(self, device: torch.device) -> None:
        """Memory on `device` for all parameters, uninitialised. Raises torch.OutOfMemoryError."""
        # Not to_empty: that makes tensors after those on "meta", for which torch imports sympy: a third of a second.
        self._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device=device))
        # Not buffers: `to(dtype)` must never round them.
        self.frequencies = [inverse_frequencies(rope, device) for rope in self.ropes]

    def weight_bytes(self) -> int:
        """Bytes that parameters and packed weights take, or will once allocated."""
        return sum(tensor.nbytes for tensor in (*self.parameters(), *self.buffers()))

    def forward(self, batch: ForwardBatch, kv: Sequence[torch.Tensor]) -> torch.Tensor:
        """Hidden states [T, hidden] before the final norm; writes the rows' K and V into `kv`, one tensor a layer."""
        return self.run_layers(self.embedded(batch), self.rotations(batch), batch, kv)

    def embedded(self, batch: ForwardBatch) -> torch.Tensor:
        """What the first layer gets: [T, hidden]."""
        x = self.embed.look_up(batch.token_ids).to(self.residual_dtype)
        return x if self.positions is None else x + self.positions.look_up(batch.positions)

    def rotations(self, batch: ForwardBatch) -> list[Rotation]:
        """Of the rows, for each of `ropes`."""
        return [rotation(batch.positions, frequencies) for frequencies in self.frequencies]

    def run_layers(
        self, x: torch.Tensor, rotations: Sequence[Rotation], batch: ForwardBatch, kv: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """`forward` from x on, which is used up."""
        group = batch.groups[0]  # one group: layers with a window keep their whole context too
        for layer, rope, layer_kv in zip(self.layers, self.rope_of_layer, kv, strict=True):
            x = layer(x, None if rope is None else rotations[rope], batch, group, layer_kv)
        return x

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden [L, hidden], the rows that matter of forward's result, normed here, to logits [L, V] in fp32."""
        return self.head(hidden, self.norm, out_dtype=torch.float32)
