"""TransformersDecoder: a causal model of transformers as a decoder over the paged KV cache."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import MoeModelOutputWithPast

from models.batch import ForwardBatch, StateGroupBatch
from models.compute import ComputeConfig
from models.families.name_map import To
from models.kv.layer import LayerCache, LayerState
from models.linear.adapters.adapter import Adapter
from models.linear.adapters.decoder_adapters import DecoderAdapters, PreparedAdapter
from models.linear.embedding import Embedding
from models.linear.linear import Linear
from models.loaded_model import AdapterTargets
from models.progress import StepProgress, ignore_progress
from models.transformers_backend.interface import CurrentStep, PagedLayer
from models.transformers_backend.linears import ForeignEmbedding, ForeignLinear, adapter_modules
from models.transformers_backend.observe import Observed
from models.transformers_backend.passes import passes
from models.transformers_backend.states import CurrentStates, load_states, store_states


class TransformersDecoder(nn.Module):
    """A decoder that runs transformers' model on the rows of all sequences as if they were one sequence.

    Only headrace's attention and the positions distinguish sequences. transformers computes hidden states and logits in
    one call; here the body runs by itself, and the head with a stand-in for the body, so that logits are computed only
    for the requested rows, with the model's own scaling and caps. One forward at a time: the attention layers share one
    CurrentStep. A recurrent model computes a prompt a pass (passes.py), since its code reads and writes the states of
    whole sequences.
    """

    def __init__(self, model: PreTrainedModel, observed: Observed, compute: ComputeConfig) -> None:
        """model: has loaded weights and the attention implementation PAGED."""
        super().__init__()
        layers = observed.layers
        self._states = observed.states
        self.takes_drafts = not observed.states
        self.continues_by_rows = False  # whether the code reads states only if it computes one row
        self.mixers = observed.mixers
        self.cache_layout = compute.cache_layout(self.mixers)
        self.compute_dtype = compute.dtype
        self._step = CurrentStep()
        group_of_layer = {layer: n for n, group in enumerate(self.cache_layout.groups) for layer in group.layers}
        paged: dict[str, list[PagedLayer]] = defaultdict(list)
        for index, (name, spec) in enumerate(layers):
            paged[name].append(PagedLayer(spec, index, group_of_layer[index], compute.backend, self._step))
        for name, own in paged.items():
            model.get_submodule(name).paged = tuple(own)
        for module in model.modules():
            if isinstance(module, ForeignLinear | ForeignEmbedding):
                module.step = self._step
        self._adapter_modules = adapter_modules(model)
        self._linear_operations = compute.ops.linear()
        self._adapters: DecoderAdapters | None = None
        self.on_progress: StepProgress = ignore_progress  # called before each layer's attention
        self.body = model.base_model
        setattr(model, model.base_model_prefix, _BodyStandIn(self.body))
        self.head = model

    def forward(
        self, batch: ForwardBatch, kv: Sequence[LayerCache], output_rows: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return hidden states [T, hidden], the head's input; write the rows' K, V and states into the caches `kv`.

        output_rows: [L] rows to return, by default all.
        """
        hidden = self._run_passes(batch, kv) if self._states else self._run(batch, kv)
        return hidden if output_rows is None else hidden[output_rows]

    def _run(
        self, batch: ForwardBatch, kv: Sequence[LayerCache], num_sequences: int = 1, states: CurrentStates | None = None
    ) -> torch.Tensor:
        """Return the hidden states of rows that transformers' code takes for `num_sequences` sequences."""
        self._step.begin(batch, kv, self.on_progress)
        shape = (num_sequences, -1)
        cache = {} if states is None else {"cache": states}
        try:
            output = self.body(
                input_ids=batch.token_ids.view(shape),
                position_ids=batch.positions.view(shape),
                use_cache=states is not None,
                return_dict=True,
                **cache,
            )
        finally:
            self._step.end()
        hidden: torch.Tensor = output.last_hidden_state
        return hidden.flatten(0, 1)

    def _run_passes(self, batch: ForwardBatch, kv: Sequence[LayerCache]) -> torch.Tensor:
        group, caches = batch.groups[-1], [cache for cache in kv if isinstance(cache, LayerState)]
        assert isinstance(group, StateGroupBatch)
        parts = []
        states = CurrentStates()
        for each in passes(batch, group, by_rows=self.continues_by_rows):
            if not each.continues_pass:
                states = CurrentStates()
            states.start, states.on_progress = each.start, self.on_progress
            if each.sources is not None:
                states.values = load_states(self._states, caches, each.sources)
            parts.append((each.rows, self._run(each.batch, kv, len(each.batch.query_lens), states)))
            store_states(self._states, caches, states.values, each.stored, each.targets)
        hidden = parts[0][1].new_empty(len(batch.token_ids), parts[0][1].shape[1])
        for rows, values in parts:
            hidden[rows] = values
        return hidden

    def logits(self, hidden: torch.Tensor, adapter_slots: torch.Tensor | None = None) -> torch.Tensor:
        """Return logits [L, V] in fp32 for `hidden` [L, hidden], rows of forward's result."""
        self._step.adapter_slots = adapter_slots
        try:
            output = self.head(inputs_embeds=hidden[None], use_cache=False, return_dict=True)
        finally:
            self._step.adapter_slots = None
        logits: torch.Tensor = output.logits[0].float()
        return logits

    def commit_states(self, *_: object) -> None:
        raise AssertionError("drafts are off for recurrent models")

    def serve_context(self, max_len: int) -> None:
        """Do nothing, since models whose rotary scaling depends on the context length are refused."""

    def weight_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self.parameters(), *self.buffers()))

    def adapted_layers(self) -> dict[str, Linear]:
        """Return the layers that can have adapters, all but embeddings, by the module's name for adapters."""
        return {name: layer for name, layer in self._adapter_modules.values() if name != "embed"}

    @property
    def adapter_targets(self) -> AdapterTargets:
        """The layers that adapters may change, and the rules for their names, as in transformers."""
        rules = {f"{name}.*": To(module) for name, (module, _) in self._adapter_modules.items()}
        return AdapterTargets(rules, dict(self._adapter_modules.values()))

    def enable_adapters(self, max_slots: int, max_rank: int) -> None:
        embed = dict(self._adapter_modules.values()).get("embed")
        assert embed is None or isinstance(embed, Embedding)
        self._adapters = DecoderAdapters(embed, self.adapted_layers(), max_slots, max_rank, self._linear_operations)

    def prepare_adapter(self, adapter: Adapter) -> PreparedAdapter:
        assert self._adapters is not None, "enable_adapters() comes first"
        return self._adapters.prepare(adapter)

    def set_adapter(self, slot: int, prepared: PreparedAdapter | None) -> None:
        assert self._adapters is not None, "enable_adapters() comes first"
        self._adapters.set(slot, prepared)

    # --- experts are not counted --------------------------------------------------------------------------------------

    def states_of_kind(self, kind: str, kv: Sequence[LayerCache]) -> Iterator[torch.Tensor]:
        """Yield the tensors in `kv` with states of one kind, "convolution" or "recurrent"."""
        caches = [cache for cache in kv if isinstance(cache, LayerState)]
        for group, cache in zip(self._states, caches, strict=True):
            yield from (part for key, part in zip(group.keys, cache.parts, strict=True) if key[1] == kind)

    @property
    def num_experts(self) -> list[int]:
        return []

    def take_rows_per_expert(self) -> torch.Tensor:
        return torch.zeros(0, 0, dtype=torch.int64)


class _BodyStandIn(nn.Module):
    """A stand-in for the model's body that returns the given hidden states and has the body's attributes."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self._body = (body,)  # in a tuple, so that its weights are not this module's

    def forward(self, *_: object, inputs_embeds: torch.Tensor, **__: object) -> MoeModelOutputWithPast:
        return MoeModelOutputWithPast(last_hidden_state=inputs_embeds)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_body"][0], name)
