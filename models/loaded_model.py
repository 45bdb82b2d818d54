"""LoadedModel: a model that is ready to run, as loading gives it to the engine."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from models.architecture.attention import AttentionSpec
from models.architecture.recurrence import RecurrenceSpec
from models.attention.base import AttentionBackend
from models.kv.groups import LayerGroup
from models.linear.adapter import Adapter
from models.linear.decoder_adapters import PreparedAdapter
from models.pooling.traits import PoolingTraits
from models.tokenizer.assets import TokenizerAssets


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """How a decoder's weights are stored: number of tensors by format, and a line for the operator."""

    formats: Counter[str]
    note: str
    mapped_bytes: int = 0  # of a cached file, which the system counts as free memory


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run. `decoder` is the torch module; the rest is what the engine plans with."""

    # forward(batch, kv) -> hidden [T, hidden]; logits(hidden [L, hidden]) -> [L, V] fp32; serve_context(length) before;
    # on_progress, called before each layer
    decoder: "torch.nn.Module"
    architecture: str
    dtype: torch.dtype
    device: torch.device
    vocab_size: int  # width of the output layer
    max_position: int  # longest context the checkpoint claims
    mixers: Sequence[AttentionSpec | RecurrenceSpec]  # one a layer
    layer_groups: tuple[LayerGroup, ...]
    attention_backend: AttentionBackend
    weight_bytes: int
    tokenizer: TokenizerAssets
    generation_defaults: dict[str, float]  # temperature, top_p, top_k, min_p, repetition_penalty where given
    notes: list[str] = field(default_factory=list)
    weight_formats: dict[str, int] = field(default_factory=dict)  # number of tensors by the format they are stored in
    mapped_bytes: int = 0  # as in LoadedWeights
    pooling: PoolingTraits | None = None  # None where transformers' code computes the model

    def enable_adapters(self, max_slots: int, max_rank: int) -> None:
        """Let rows have adapters of up to `max_rank`, of slots 0 .. max_slots - 1; once, before the first step.

        Raises UnsupportedModelError where the model cannot have any.
        """
        self.decoder.enable_adapters(max_slots, max_rank)

    def prepare_adapter(self, adapter: Adapter) -> PreparedAdapter:
        """The adapter as a slot takes it. May be called by any thread, also while a step runs.

        Raises AdapterError if its rank is above `max_rank`, and MemoryError.
        """
        prepared: PreparedAdapter = self.decoder.prepare_adapter(adapter)
        return prepared

    def set_adapter(self, slot: int, prepared: PreparedAdapter | None) -> None:
        """Put an adapter into a slot, or empty it, between two steps: rows of the slot have it from the next step on.

        Nothing is computed: it only lets the layers point to what has been prepared.
        """
        self.decoder.set_adapter(slot, prepared)
