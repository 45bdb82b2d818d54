"""LoadedModel: a model that is ready to run, as the loader returns it to the engine."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import nn

from models.architecture.attention import AttentionSpec
from models.architecture.decoder import DecoderSpec
from models.architecture.recurrence import StateSpec
from models.batch import ForwardBatch, StateGroupBatch
from models.compute import ComputeConfig
from models.families.name_map import Rules
from models.families.registry import Family
from models.kv.cache import CacheLayout
from models.kv.layer import LayerCache
from models.linear.adapters.adapter import Adapter
from models.linear.adapters.decoder_adapters import PreparedAdapter
from models.linear.linear import Linear
from models.pooling.traits import PoolingTraits
from models.progress import StepProgress
from models.tokenizer.assets import TokenizerAssets


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """How a decoder's weights are stored: the number of tensors by format, and a start-up note."""

    formats: Counter[str]
    note: str
    mapped_bytes: int = 0  # of weights mapped from the weight cache, which the system counts as free memory


@dataclass(frozen=True, slots=True)
class AdapterTargets:
    """The layers of a model that adapters may change, by module name, and the rules for names in adapters' files.

    spec: the decoder's, which some rules need; None if transformers' code computes the model.
    """

    rules: Rules
    modules: Mapping[str, nn.Module]
    spec: DecoderSpec | None = None


class ModelDecoder(Protocol):
    """The interface of a decoder that the engine uses; implemented by Decoder and TransformersDecoder."""

    mixers: Sequence[AttentionSpec | StateSpec]  # one for each layer
    cache_layout: CacheLayout
    takes_drafts: bool  # whether states can be restored when drafts are rejected
    on_progress: StepProgress  # called before each layer

    def __call__(
        self, batch: ForwardBatch, kv: Sequence[LayerCache], output_rows: torch.Tensor | None = None
    ) -> torch.Tensor: ...

    def logits(self, hidden: torch.Tensor, adapter_slots: torch.Tensor | None = None) -> torch.Tensor: ...

    def commit_states(self, accepted_rows: torch.Tensor, group: StateGroupBatch, kv: Sequence[LayerCache]) -> None: ...

    def serve_context(self, max_len: int) -> None: ...

    def weight_bytes(self) -> int: ...

    @property
    def num_experts(self) -> list[int]: ...

    def take_rows_per_expert(self) -> torch.Tensor: ...

    def adapted_layers(self) -> dict[str, Linear]:
        """Return the layers that can have adapters, all but embeddings and experts, by module name."""

    def enable_adapters(self, max_slots: int, max_rank: int) -> None:
        """Add adapter slots 0 .. max_slots - 1 for ranks up to `max_rank`. Called once, before the first step."""

    def prepare_adapter(self, adapter: Adapter) -> PreparedAdapter:
        """Convert an adapter for a slot. May run on any thread, also during a step.

        Raises AdapterError if its rank exceeds `max_rank`, and MemoryError.
        """

    def set_adapter(self, slot: int, prepared: PreparedAdapter | None) -> None:
        """Put an adapter into a slot; None empties the slot. Called between steps; takes effect in the next one."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run: its decoder, and the properties that the engine needs for planning memory and steps."""

    decoder: ModelDecoder
    architecture: str
    compute: ComputeConfig
    vocab_size: int  # width of the output layer
    max_position: int  # longest context the checkpoint claims
    weight_bytes: int
    tokenizer: TokenizerAssets
    generation_defaults: dict[str, float]  # temperature, top_p, top_k, min_p, repetition_penalty where given
    notes: list[str] = field(default_factory=list)
    weight_formats: dict[str, int] = field(default_factory=dict)  # number of tensors by the format they are stored in
    mapped_bytes: int = 0  # of weights mapped from the weight cache, which the system counts as free memory
    family: Family | None = None  # None where transformers' code computes the model
    pooling: PoolingTraits | None = None  # None where transformers' code computes the model
    adapter_targets: AdapterTargets | None = None  # None where a family has the rules

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of activations and dense weights."""
        return self.compute.dtype

    @property
    def device(self) -> torch.device:
        return self.compute.device

    @property
    def cache_layout(self) -> CacheLayout:
        return self.decoder.cache_layout
