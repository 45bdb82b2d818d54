"""Decoder: the one transformer, composed from a DecoderSpec when built; with bidirectional attention, an encoder."""

import dataclasses
import itertools
from collections.abc import Sequence

import torch
from torch import nn

from models.architecture.decoder import DecoderSpec
from models.architecture.norm import NormSpec
from models.attention.rotary import RotaryEmbedding
from models.batch import ForwardBatch, StateGroupBatch, narrow_batch
from models.compute import ComputeConfig
from models.kernels.row_input import IDENTITY
from models.kv.layer import LayerCache
from models.layers.attention.attention import Attention
from models.layers.attention.relative_bias import RelativeBias
from models.layers.decoder_layer import make_layer
from models.layers.decoder_rotary import DecoderRotary
from models.layers.layer_input import LayerInputs
from models.layers.moe import ExpertCounts, MoE
from models.layers.norm import Norm
from models.layers.score_head import ScoreHead
from models.layers.streams import Streams
from models.linear.adapters.adapter import Adapter
from models.linear.adapters.decoder_adapters import DecoderAdapters, PreparedAdapter
from models.linear.dense import DenseLinearMethod
from models.linear.embedding import Embedding
from models.linear.linear import Linear
from models.linear.method import LinearMethod
from models.progress import StepProgress, ignore_progress


def allocate_module(module: nn.Module, device: torch.device) -> None:
    """Allocate the parameters of a part of a decoder, uninitialized. Raises torch.OutOfMemoryError."""
    # Not to_empty: it makes tensors like those on "meta", for which torch imports sympy, a third of a second.
    module._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device=device))
    for inner in module.modules():
        if isinstance(inner, Attention):
            inner.make_constants(device)


class Decoder(nn.Module):
    """Computes hidden states from token ids and, with an output layer, logits from hidden states.

    Built with unallocated parameters: the loader assigns tensors, may set other methods of linear layers, and then
    allocates and fills the rest. Invariant: no call keeps state of its batch or KV cache, so one instance works with
    any number of caches.
    """

    takes_drafts = True

    def __init__(self, spec: DecoderSpec, compute: ComputeConfig) -> None:
        super().__init__()
        method = DenseLinearMethod(compute.dtype, compute.ops.linear())  # of all linear layers at first
        self.spec = spec
        self.compute_dtype = compute.dtype
        self.residual_dtype = compute.dtype  # of the residual stream
        hidden_size = spec.hidden_size
        self.embed = Embedding(spec.vocab_size, spec.embedding_size or hidden_size, method=method)
        self.project_in, self.project_out = _projections(spec, method)
        self.position_embedding = (
            Embedding(spec.max_position, hidden_size, method=method) if spec.has_learned_positions else None
        )
        self.token_type_embedding = (
            Embedding(spec.num_token_types, hidden_size, method=method) if spec.num_token_types else None
        )
        self.embed_norm = _optional_norm(spec.embedding_norm, hidden_size)
        self.relative_bias = (
            None
            if spec.relative_bias is None
            else RelativeBias(spec.relative_bias, spec.attention_specs[0].num_heads, spec.max_position)
        )
        self.layers = nn.ModuleList(
            make_layer(layer, hidden_size, compute=compute, method=method) for layer in spec.layers
        )
        self.layer_inputs: LayerInputs | None = None
        if (inputs := spec.layer_input) is not None:
            self.layer_inputs = LayerInputs(inputs, len(spec.layers), hidden_size, compute=compute, method=method)
        self.streams = None if spec.streams is None else Streams(spec.streams, hidden_size, method=method)
        self.norm = _optional_norm(spec.final_norm, hidden_size)
        self.head = _head(spec, self.embed, method)
        self.score_head = None if spec.score_head is None else ScoreHead(spec.score_head, hidden_size, method=method)
        self.rotary = DecoderRotary(spec.layers)
        self.mixers = spec.mixers
        self.cache_layout = compute.cache_layout(self.mixers)
        self._group_of_mixer = {mixer: n for n, group in enumerate(self.cache_layout.groups) for mixer in group.layers}
        ends = tuple(itertools.accumulate(len(layer.mixers) for layer in spec.layers))
        own = [slice(*bounds) for bounds in itertools.pairwise((0, *ends))]
        self._mixers_of_layer = [
            mixers if layer.kv_layer is None else own[layer.kv_layer]
            for layer, mixers in zip(spec.layers, own, strict=True)
        ]
        self.num_caching = len(spec.layers)  # layers up to the last with a cache; the others run for output rows alone
        while spec.layers[self.num_caching - 1].kv_layer is not None and compute.backend.takes_any_rows:
            self.num_caching -= 1
        self._device = torch.device("meta")
        self._expert_counts = self._count_experts(torch.device("cpu"))
        self._linear_operations = compute.ops.linear()
        self._adapters: DecoderAdapters | None = None
        self.on_progress: StepProgress = ignore_progress  # called before each layer

    def allocate(self, device: torch.device) -> None:
        """Allocate all parameters on `device`, uninitialized. Raises torch.OutOfMemoryError."""
        self.allocate_non_layer_weights(device)
        allocate_module(self.layers, device)

    def allocate_non_layer_weights(self, device: torch.device) -> None:
        """Allocate all parameters outside the layers."""
        for module in self.children():
            if module is not self.layers:
                allocate_module(module, device)
        self._device = device
        self._expert_counts = self._count_experts(device)
        self.serve_context(self.spec.max_position)

    def _count_experts(self, device: torch.device) -> ExpertCounts:
        return ExpertCounts([module for module in self.modules() if isinstance(module, MoE)], device)

    def serve_context(self, max_len: int) -> None:
        """Prepare for contexts of up to `max_len` tokens.

        Must precede the first forward over a cache, since keys keep the rotation that they were written with.
        """
        self.rotary.serve_context(max_len, self._device)
        self._center_keys()

    def _center_keys(self) -> None:
        """Choose the constants that are subtracted from quantized keys, of the context that the model was made for."""
        positions = torch.arange(0, self.spec.max_position, max(1, self.spec.max_position // 1024), device=self._device)
        embeddings = self.rotary.embeddings(positions)
        for index, layer in enumerate(self.layers):
            for module in layer.modules():
                if not isinstance(module, Attention):
                    continue
                module.rotated_center = None  # of other frequencies
                if module.qkv.bias is not None and not module.qkv.bias.is_meta:
                    module.center_keys(self.rotary.of_layer(index, embeddings))

    @property
    def rotated_centers(self) -> list[torch.Tensor]:
        """The centers of keys in 4 bits, [2, K, D] each, of the layers that have them."""
        centers = (module.rotated_center for module in self.modules() if isinstance(module, Attention))
        return [center.heads for center in centers if center is not None]

    def weight_bytes(self) -> int:
        """Return the bytes that parameters and packed weights take, or will take once allocated."""
        return sum(tensor.nbytes for tensor in (*self.parameters(), *self.buffers()))

    def forward(
        self, batch: ForwardBatch, kv: Sequence[LayerCache], output_rows: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return hidden states [T, hidden] before the final norm. Writes the rows' K, V and states to `kv`.

        kv: the cache of each mixer. output_rows: [L] indices of the rows to return, by default all. The last layer's
        feed-forward sublayer computes only these rows, and the last layers without a cache only those from a sequence's
        first of them to its last.
        """
        x = self.embedded(batch)
        return self.run_layers(x, self.rotary_embeddings(batch), self.with_layer_inputs(batch, x), kv, output_rows)

    def embedded(self, batch: ForwardBatch) -> torch.Tensor:
        """Return the first layer's input: [T, hidden]."""
        slots = batch.adapter_slots
        x = self.embed.look_up(batch.token_ids, slots).to(self.residual_dtype)
        if self.spec.embedding_scale != 1.0:
            x = x * self.spec.embedding_scale
        if self.project_in is not None:
            x = self.project_in(x, out_dtype=self.residual_dtype, adapter_slots=slots)
        if self.position_embedding is not None:
            x = x + self.position_embedding.look_up(batch.positions)
        if self.token_type_embedding is not None:
            types = batch.token_type_ids
            if types is None or self.spec.num_token_types == 1:
                types = torch.zeros_like(batch.token_ids)
            x = x + self.token_type_embedding.look_up(types)
        return x if self.embed_norm is None else self.embed_norm(x)

    def with_layer_inputs(self, batch: ForwardBatch, embedded: torch.Tensor) -> ForwardBatch:
        """Return the batch with the layers' inputs besides the residual stream, if layers have such inputs.

        embedded: the result of `embedded`.
        """
        if self.layer_inputs is None:
            return batch
        inputs = self.layer_inputs(batch.token_ids, embedded, batch.adapter_slots)
        return dataclasses.replace(batch, layer_inputs=inputs)

    def rotary_embeddings(self, batch: ForwardBatch) -> list[RotaryEmbedding]:
        """Return the rotary embeddings of the batch's rows, for each of `rotary.specs`."""
        return self.rotary.embeddings(batch.positions)

    def run_layers(
        self,
        x: torch.Tensor,
        rotary_embeddings: Sequence[RotaryEmbedding],
        batch: ForwardBatch,
        kv: Sequence[LayerCache],
        output_rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Run all layers on x, the result of `embedded`, which may be overwritten; return the hidden states.

        kv: the cache of each mixer. output_rows: [L] indices of the rows to return, by default all.
        """
        last = len(self.layers) - 1
        x = self.begin_streams(x, batch)
        for index in range(len(self.layers)):
            if index == self.num_caching and output_rows is not None:
                batch, rows, output_rows = narrow_batch(batch, output_rows)
                x, rotary_embeddings = x[rows], [each.of_rows(rows) for each in rotary_embeddings]
                if not len(rows):
                    break
            caches = kv[self._mixers_of_layer[index]]
            x = self.run_layer(index, x, rotary_embeddings, batch, caches, output_rows if index == last else None)
        slots = batch.adapter_slots
        return self.end_streams(x, slots if slots is None or output_rows is None else slots[output_rows])

    def begin_streams(self, x: torch.Tensor, batch: ForwardBatch) -> torch.Tensor:
        """Return the first layer's residual streams, [T, streams, hidden], for x, the result of `embedded`; x itself
        if there is one stream."""
        return x if self.streams is None else self.streams.begin(x, batch.adapter_slots)

    def end_streams(self, x: torch.Tensor, adapter_slots: torch.Tensor | None = None) -> torch.Tensor:
        """Return the hidden states [T, hidden] for the last layer's residual streams; x itself if there is one.

        adapter_slots: of the rows, [T] int32, or None.
        """
        return x if self.streams is None else self.streams.end(x, adapter_slots)

    def run_layer(
        self,
        index: int,
        x: torch.Tensor,
        rotary_embeddings: Sequence[RotaryEmbedding],
        batch: ForwardBatch,
        kv: Sequence[LayerCache],
        output_rows: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Run one layer on x, which may be overwritten. kv: the caches of `mixer_indices`."""
        self.on_progress()
        if self.relative_bias is not None:
            batch = dataclasses.replace(batch, distance_bias=self.relative_bias.by_distance())
        rotary = self.rotary.of_layer(index, rotary_embeddings)
        groups = [batch.groups[self._group_of_mixer[mixer]] for mixer in self.mixer_indices(index)]
        layer_input = None if batch.layer_inputs is None else batch.layer_inputs[:, index]
        rows: torch.Tensor = self.layers[index](x, rotary, batch, groups, kv, output_rows, layer_input)
        return rows

    def mixer_indices(self, index: int) -> range:
        """Return the indices of a layer's mixers, and so of its caches; those of `LayerSpec.kv_layer`, if it reads
        another layer's."""
        bounds = self._mixers_of_layer[index]
        return range(bounds.start, bounds.stop)

    @property
    def shared_mixers(self) -> set[int]:
        """The mixers whose keys and values later layers read."""
        readers = [index for index, layer in enumerate(self.spec.layers) if layer.kv_layer is not None]
        return {mixer for index in readers for mixer in self.mixer_indices(index)}

    def commit_states(self, accepted_rows: torch.Tensor, group: StateGroupBatch, kv: Sequence[LayerCache]) -> None:
        """Write the recurrent states after the rows of accepted draft tokens.

        accepted_rows: [n] int64, indices into `group.speculative_rows`, sequence after sequence.
        """
        for layer, mixers in zip(self.layers, self._mixers_of_layer, strict=True):
            layer.commit_states(accepted_rows, group, kv[mixers])

    def final_states(self, hidden: torch.Tensor) -> torch.Tensor:
        """Apply the final norm to rows [L, hidden] of forward's result. Returns the last hidden states, in fp32."""
        hidden = hidden.to(torch.float32)
        return hidden if self.norm is None else self.norm(hidden)

    def logits(self, hidden: torch.Tensor, adapter_slots: torch.Tensor | None = None) -> torch.Tensor:
        """Return the logits [L, V], fp32, of rows [L, hidden] of forward's result, to which the final norm is applied.

        adapter_slots: [L] int32, the slot of each row's adapter, -1 without one; None if no row has an adapter.
        """
        assert self.head is not None
        norm = self.norm or IDENTITY
        if self.project_out is not None:
            hidden, norm = self.project_out(hidden, norm, adapter_slots=adapter_slots), IDENTITY
        logits: torch.Tensor = self.head(hidden, norm, out_dtype=torch.float32, adapter_slots=adapter_slots)
        if self.spec.logit_scale != 1.0:
            logits *= self.spec.logit_scale
        if (cap := self.spec.logit_softcap) is not None:
            logits = cap * torch.tanh(logits / cap)
        return logits

    def enable_adapters(self, max_slots: int, max_rank: int) -> None:
        self._adapters = DecoderAdapters(
            self.embed, self.adapted_layers(), max_slots, max_rank, self._linear_operations
        )

    def prepare_adapter(self, adapter: Adapter) -> PreparedAdapter:
        assert self._adapters is not None, "enable_adapters() comes first"
        return self._adapters.prepare(adapter)

    def set_adapter(self, slot: int, prepared: PreparedAdapter | None) -> None:
        assert self._adapters is not None, "enable_adapters() comes first"
        self._adapters.set(slot, prepared)

    @property
    def adapters_version(self) -> int:
        """Version that changes when recordings of steps with adapters become invalid."""
        return 0 if self._adapters is None else self._adapters.version

    def adapted_layers(self) -> dict[str, Linear]:
        """Return the layers that can have adapters, all but embeddings and experts, by module name."""
        modules = dict(self.named_modules())
        inner = {name: module for name, module in modules.items() if isinstance(module, Linear)}
        skipped = ("embed", "position_embedding", "token_type_embedding", "layer_inputs.table")
        layers = {name: each for name, each in inner.items() if ".experts." not in name and name not in skipped}
        return layers if self.head is None else {**layers, "head": self.head}

    @property
    def num_experts(self) -> list[int]:
        """Number of experts of each MoE layer."""
        return self._expert_counts.num_experts

    def take_rows_per_expert(self) -> torch.Tensor:
        """Return how many rows each expert has computed since the last call: [MoE layers, most experts], int64 on
        the CPU."""
        return self._expert_counts.take()


def _projections(spec: DecoderSpec, method: LinearMethod) -> tuple[Linear | None, Linear | None]:
    """Make the projections from the embedding's size to the hidden size and back, if the sizes differ."""
    if spec.embedding_size is None:
        return None, None
    return (
        Linear(spec.embedding_size, spec.hidden_size, has_bias=False, method=method),
        Linear(spec.hidden_size, spec.embedding_size, has_bias=False, method=method),
    )


def _optional_norm(spec: NormSpec | None, size: int) -> Norm | None:
    return None if spec is None else Norm(spec, size)


def _head(spec: DecoderSpec, embed: Embedding, method: LinearMethod) -> Linear | None:
    if not spec.has_head:
        return None
    if spec.has_tied_head:
        return embed
    size = spec.embedding_size or spec.hidden_size
    return Linear(size, spec.vocab_size, has_bias=spec.has_head_bias, method=method)
