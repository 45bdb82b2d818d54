"""Decoder: the one decoder-only transformer, composed from a DecoderSpec when built."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from models.attention.base import AttentionBackend
from models.attention.layer_groups import group_layers
from models.attention.rotation import Rotation, rotation
from models.batch import ForwardBatch, GroupBatch, StateGroupBatch
from models.layers.attention import Attention
from models.layers.latent_attention import LatentAttention
from models.layers.mlp import make_mlp
from models.layers.moe import MoE, make_feed_forward
from models.layers.norm import make_norm
from models.layers.residual import NORMS_OF_BRANCH, make_join, pass_by
from models.layers.rotary_frequencies import inverse_frequencies, rotation_scale
from models.linear.embedding import Embedding
from models.linear.linear import Linear
from models.linear.method import LinearMethod
from models.linear.prologue import IDENTITY
from models.recurrence.gated_delta import GatedDelta
from models.recurrence.short_conv import ShortConv
from models.recurrence.state import LayerCache, LayerState
from models.spec import DecoderSpec, GatedDeltaSpec, LayerSpec, MLPSpec, NormPlacement, ShortConvSpec


class DecoderLayer(nn.Module):
    """Attention, then feed-forward. Which of the four norms exist is NormPlacement's choice."""

    attn_norm: nn.Module | None
    attn_post_norm: nn.Module | None
    mlp_norm: nn.Module | None
    mlp_post_norm: nn.Module | None

    def __init__(
        self, spec: LayerSpec, hidden_size: int, *, backend: AttentionBackend, method: LinearMethod, dtype: torch.dtype
    ) -> None:
        super().__init__()
        before, after = NORMS_OF_BRANCH[spec.placement]
        attn_norm, attn_post_norm, mlp_norm, mlp_post_norm = (
            make_norm(spec.norm, hidden_size) if exists else None for exists in (before, after) * 2
        )
        self.attn_norm, self.attn_post_norm = attn_norm, attn_post_norm
        self.attn = make_mixer(spec, hidden_size, backend=backend, method=method, dtype=dtype)
        self.mlp_norm, self.mlp_post_norm = mlp_norm, mlp_post_norm
        self.mlp = make_feed_forward(spec.mlp, hidden_size, method=method, dtype=dtype)
        self._join_attn = make_join(spec, attn_norm, attn_post_norm)
        self._join_mlp = make_join(spec, mlp_norm, mlp_post_norm)

    def forward(
        self,
        x: torch.Tensor,
        by: Rotation | None,
        batch: ForwardBatch,
        group: GroupBatch,
        kv: LayerCache,
        wanted: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """x [T, hidden], used up. The norms are not called here: they are prologues of the layers that follow them.

        wanted: [L] rows to return, by default all; the others stop before the feed-forward branch.
        """
        x = self._join_attn(x, lambda rows, norm, residual: self.attn(rows, norm, by, batch, group, kv, residual))
        return self._join_mlp(x if wanted is None else x[wanted], self.mlp)

    @contextlib.contextmanager
    def without_mlp(self) -> Iterator[None]:
        """While the context lasts, the layer ends after attention."""
        join, self._join_mlp = self._join_mlp, pass_by
        try:
            yield
        finally:
            self._join_mlp = join

    def drop_attention(self) -> None:
        """From now on, x are rows that have been through attention."""
        self._join_attn = pass_by


class ParallelLayer(nn.Module):
    """x + attention(attn_norm(x)) + mlp(mlp_norm(x)), mlp_norm being attn_norm where the family has one."""

    def __init__(
        self, spec: LayerSpec, hidden_size: int, *, backend: AttentionBackend, method: LinearMethod, dtype: torch.dtype
    ) -> None:
        super().__init__()
        assert isinstance(spec.mlp, MLPSpec)
        assert spec.branch_scale == spec.skip_scale == 1.0
        self.attn_norm = make_norm(spec.norm, hidden_size)
        self.attn = make_mixer(spec, hidden_size, backend=backend, method=method, dtype=dtype)
        is_one = spec.placement is NormPlacement.PARALLEL_ONE_NORM
        self.mlp_norm = self.attn_norm if is_one else make_norm(spec.norm, hidden_size)
        self.mlp = make_mlp(spec.mlp, hidden_size, method=method, dtype=dtype)

    def forward(
        self,
        x: torch.Tensor,
        by: Rotation | None,
        batch: ForwardBatch,
        group: GroupBatch,
        kv: LayerCache,
        wanted: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """x [T, hidden], used up: both branches have read it before either adds to it. wanted: as of DecoderLayer."""
        inner = self.mlp.expand(x if wanted is None else x[wanted], self.mlp_norm)
        x = self.attn(x, self.attn_norm, by, batch, group, kv, residual=x)
        return self.mlp.contract(inner, residual=x if wanted is None else x[wanted])


def make_mixer(
    spec: LayerSpec, hidden_size: int, *, backend: AttentionBackend, method: LinearMethod, dtype: torch.dtype
) -> nn.Module:
    """Attention, or what stands in its place."""
    match spec.recurrence:
        case ShortConvSpec():
            return ShortConv(spec.recurrence, hidden_size, method=method)
        case GatedDeltaSpec():
            return GatedDelta(spec.recurrence, hidden_size, method=method)
    if spec.latent is not None:
        return LatentAttention(spec, hidden_size, backend=backend, method=method, dtype=dtype)
    return Attention(spec, hidden_size, backend=backend, method=method)


def make_layer(
    spec: LayerSpec, hidden_size: int, *, backend: AttentionBackend, method: LinearMethod, dtype: torch.dtype
) -> nn.Module:
    is_parallel = spec.placement in (NormPlacement.PARALLEL, NormPlacement.PARALLEL_ONE_NORM)
    kind = ParallelLayer if is_parallel else DecoderLayer
    return kind(spec, hidden_size, backend=backend, method=method, dtype=dtype)


def allocate_module(module: nn.Module, device: torch.device) -> None:
    """Memory on `device` for the parameters of a part of a decoder, uninitialized. Raises torch.OutOfMemoryError."""
    # Not to_empty: that makes tensors after those on "meta", for which torch imports sympy: a third of a second.
    module._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device=device))
    for inner in module.modules():
        if isinstance(inner, Attention):
            inner.make_constants(device)


class Decoder(nn.Module):
    """Token ids to hidden states to logits.

    Built without memory: the loader assigns tensors, may let layers `set_method` another one, and then allocates and
    fills. Invariant: nothing of the batch or of the KV cache outlives a call, so one instance serves any number of
    caches.
    """

    def __init__(
        self, spec: DecoderSpec, *, backend: AttentionBackend, method: LinearMethod, dtype: torch.dtype
    ) -> None:
        """method: of all linear layers at first. dtype: of activations and KV cache."""
        super().__init__()
        self.spec = spec
        self.dtype = dtype
        self.residual_dtype = dtype  # of what flows from layer to layer
        hidden_size = spec.hidden_size
        embedding_size = spec.embedding_size or hidden_size
        self.embed = Embedding(spec.vocab_size, embedding_size, method=method)
        self.widen, self.narrow = (
            Linear(*sizes, has_bias=False, method=method) if spec.embedding_size else None
            for sizes in ((embedding_size, hidden_size), (hidden_size, embedding_size))
        )
        self.positions = (
            Embedding(spec.max_position, hidden_size, method=method) if spec.has_learned_positions else None
        )
        self.embed_norm = None if spec.embedding_norm is None else make_norm(spec.embedding_norm, hidden_size)
        self.layers = nn.ModuleList(
            make_layer(layer, hidden_size, backend=backend, method=method, dtype=dtype) for layer in spec.layers
        )
        self.norm = None if spec.final_norm is None else make_norm(spec.final_norm, hidden_size)
        self.head = (
            self.embed
            if spec.has_tied_head
            else Linear(embedding_size, spec.vocab_size, has_bias=spec.has_head_bias, method=method)
        )
        # Layers that turn alike share one rotation a step.
        turns = [(layer.rope, layer.query_temperature) for layer in spec.layers]
        self.turns = [turn for turn in dict.fromkeys(turns) if turn != (None, None)]
        self._turn_of_layer = [self.turns.index(turn) if turn in self.turns else None for turn in turns]
        self.frequencies: list[torch.Tensor] = []  # of each turn
        self._device = torch.device("meta")
        self.mixers = [layer.mixer for layer in spec.layers]
        self.layer_groups = group_layers(self.mixers)
        experts = [module for module in self.modules() if isinstance(module, MoE)]
        self.num_experts = [len(moe.load) for moe in experts]  # of each layer with experts
        self._expert_load = _shared_loads(experts)
        self._group_of_layer = {layer: n for n, group in enumerate(self.layer_groups) for layer in group.layers}

    def allocate(self, device: torch.device) -> None:
        """Memory on `device` for all parameters, uninitialized. Raises torch.OutOfMemoryError."""
        self.allocate_ends(device)
        allocate_module(self.layers, device)

    def allocate_ends(self, device: torch.device) -> None:
        """The same for all but the layers."""
        for module in self.children():
            if module is not self.layers:
                allocate_module(module, device)
        self._device = device
        self.serve_context(self.spec.max_position)

    def serve_context(self, max_len: int) -> None:
        """Make ready for contexts of up to `max_len` tokens: some rotary scalings depend on it (spec.py).

        Before the first forward, since keys in a cache keep the rotation that they were written with.
        """
        # Not buffers: `to(dtype)` must never round them.
        self.frequencies = [inverse_frequencies(rope, self._device, max_len) for rope, _ in self.turns]

    def weight_bytes(self) -> int:
        """Bytes that parameters and packed weights take, or will once allocated."""
        return sum(tensor.nbytes for tensor in (*self.parameters(), *self.buffers()))

    def forward(
        self, batch: ForwardBatch, kv: Sequence[LayerCache], wanted: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Hidden states [T, hidden] before the final norm; writes the rows' K and V, and states, into `kv`,
        one a layer.

        wanted: [L] rows to return, by default all; in the last layer the others stop before the feed-forward branch.
        """
        return self.run_layers(self.embedded(batch), self.rotations(batch), batch, kv, wanted)

    def embedded(self, batch: ForwardBatch) -> torch.Tensor:
        """What the first layer gets: [T, hidden]."""
        x = self.embed.look_up(batch.token_ids).to(self.residual_dtype)
        if self.spec.embedding_scale != 1.0:
            x = x * self.spec.embedding_scale
        if self.widen is not None:
            x = self.widen(x, out_dtype=self.residual_dtype)
        if self.positions is not None:
            x = x + self.positions.look_up(batch.positions)
        return x if self.embed_norm is None else self.embed_norm(x)

    def rotations(self, batch: ForwardBatch) -> list[Rotation]:
        """Of the rows, for each of `turns`."""
        return [
            rotation(batch.positions, frequencies, rotation_scale(rope), temperature)
            for frequencies, (rope, temperature) in zip(self.frequencies, self.turns, strict=True)
        ]

    def run_layers(
        self,
        x: torch.Tensor,
        rotations: Sequence[Rotation],
        batch: ForwardBatch,
        kv: Sequence[LayerCache],
        wanted: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """`forward` from x on, which is used up."""
        last = len(kv) - 1
        for index, layer_kv in enumerate(kv):
            x = self.run_layer(index, x, rotations, batch, layer_kv, wanted if index == last else None)
        return x

    def run_layer(
        self,
        index: int,
        x: torch.Tensor,
        rotations: Sequence[Rotation],
        batch: ForwardBatch,
        kv: LayerCache,
        wanted: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """One layer of `run_layers`, with its own `kv`, for the `wanted` rows."""
        turn = self._turn_of_layer[index]
        by, group = None if turn is None else rotations[turn], batch.groups[self._group_of_layer[index]]
        rows: torch.Tensor = self.layers[index](x, by, batch, group, kv, wanted)
        return rows

    def advance(self, kept: torch.Tensor, group: StateGroupBatch, kv: Sequence[LayerCache]) -> None:
        """Write the recurrent states that the accepted ones of a step's open rows lead to: see StateGroupBatch.

        kept: [n] int64, which of the open rows these are, sequence after sequence as in `group`.
        """
        for layer, state in zip(self.layers, kv, strict=True):
            if isinstance(state, LayerState):
                layer.attn.advance(kept, group, state)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden [L, hidden], the rows that matter of forward's result, normed here, to logits [L, V] in fp32."""
        norm = self.norm or IDENTITY
        if self.narrow is not None:
            hidden, norm = self.narrow(hidden, norm), IDENTITY
        logits: torch.Tensor = self.head(hidden, norm, out_dtype=torch.float32)
        if self.spec.logit_scale != 1.0:
            logits *= self.spec.logit_scale
        if (cap := self.spec.logit_softcap) is not None:
            logits = cap * torch.tanh(logits / cap)
        return logits

    def take_expert_load(self) -> torch.Tensor:
        """Rows that each expert computed since the last call: [layers with experts, most experts of one], int64."""
        taken = self._expert_load.clone()
        self._expert_load.zero_()
        return taken


def _shared_loads(experts: Sequence[MoE]) -> torch.Tensor:
    """One tensor for the counts of all layers, so that they are read in one go."""
    most = max((len(moe.load) for moe in experts), default=0)
    loads = torch.zeros(len(experts), most, dtype=torch.int64)
    for moe, load in zip(experts, loads, strict=True):
        moe.load = load[: len(moe.load)]
    return loads
