"""LayerStream: runs a decoder with one layer at a time in memory, for models that do not fit."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from models.attention.rotary import RotaryEmbedding
from models.attention.select import select_backend
from models.batch import FirstValues, ForwardBatch, KVGroupBatch, StateGroupBatch, StepChoice
from models.compute import ComputeConfig
from models.decoder import allocate_module
from models.kernels.ops import select_operations
from models.kv.layer import LayerCache
from models.linear.storage import WeightOptions
from models.loading.assign import Assignment, load_weights
from models.loading.load import build_skeleton
from models.loading.open import OpenedModel
from models.progress import ProgressReport, ignore_report


@dataclass(slots=True, eq=False)
class LayerwiseForward:
    """A forward pass that is computed layer by layer: its batches, and the rows of each.

    caches: of layers whose keys and values later layers read, by layer.
    """

    batches: Sequence[ForwardBatch]
    rotary_embeddings: list[list[RotaryEmbedding]]
    rows: list[torch.Tensor]
    caches: dict[int, list[LayerCache]] = field(default_factory=dict)

    def hidden(self) -> torch.Tensor:
        """Return the current rows of all batches, concatenated in order: [T, hidden], or [T, streams, hidden]."""
        return torch.cat(self.rows)


class LayerStream:
    """A decoder whose layers are loaded one after the other; embeddings, final norm and head stay in memory.

    Invariant: `layers` visits each layer once, in order, and frees its weights after the visit.
    """

    def __init__(
        self,
        opened: OpenedModel,
        *,
        dtype: torch.dtype,
        device: torch.device,
        weights: WeightOptions | None = None,
        progress: ProgressReport = ignore_report,
    ) -> None:
        """weights: None for the defaults. progress: of kernels that are compiled first, if they are missing.

        Raises a ModelError, before anything large is read, if tensors do not fit."""
        self.device = device
        ops = select_operations(dtype, device, progress)
        backend, _ = select_backend(opened.spec.attention_specs, dtype, dtype, device)
        compute = ComputeConfig(backend, ops, dtype, dtype, device)
        self.decoder, self.assignments, _ = build_skeleton(opened, compute, weights or WeightOptions())
        self.decoder.eval()

    def load_non_layer_weights(self) -> None:
        """Load embeddings, final norm and head."""
        self.decoder.allocate_non_layer_weights(self.device)
        self._load_weights(None)

    def hidden(self, forward: LayerwiseForward) -> torch.Tensor:
        """Return the hidden states [T, hidden] after the last layer, of all batches in order."""
        return self.decoder.end_streams(forward.hidden())

    def begin(self, batches: Sequence[ForwardBatch]) -> LayerwiseForward:
        """Start a forward pass: embed the tokens. batches: steps in order; KV blocks count from 0."""
        batches = [  # passes take turns
            dataclasses.replace(batch, choice=StepChoice(), first_values=FirstValues()) for batch in batches
        ]
        rotary_embeddings = [self.decoder.rotary_embeddings(batch) for batch in batches]
        rows = [self.decoder.embedded(batch) for batch in batches]
        batches = [self.decoder.with_layer_inputs(*each) for each in zip(batches, rows, strict=True)]
        rows = [self.decoder.begin_streams(x, batch) for x, batch in zip(rows, batches, strict=True)]
        return LayerwiseForward(batches, rotary_embeddings, rows)

    def layers(self, stage: str, progress: ProgressReport) -> Iterator[tuple[int, nn.Module]]:
        """Load each layer in order, and yield its index and the layer; free its weights before the next one."""
        total = len(self.decoder.layers)
        for index in range(total):
            progress(stage, index, total, "layers")
            layer = self.decoder.layers[index]
            allocate_module(layer, self.device)
            self._load_weights(index)
            yield index, layer
            self.decoder.layers[index] = nn.Identity()
        progress(stage, total, total, "layers")

    def compute(self, index: int, forward: LayerwiseForward, *, advances: bool = True) -> None:
        """Run layer `index` over the rows of a forward pass. advances: whether the outputs replace the rows."""
        kv = self._caches(index, forward)
        for step, (batch, rotary_embeddings) in enumerate(zip(forward.batches, forward.rotary_embeddings, strict=True)):
            rows = forward.rows[step]
            out = self.decoder.run_layer(index, rows if advances else rows.clone(), rotary_embeddings, batch, kv)
            if advances:
                forward.rows[step] = out

    def _load_weights(self, layer: int | None) -> None:
        """Load the weights of a layer, or all weights outside of layers."""
        load_weights(self.decoder, [each for each in self.assignments if layer_of(each) == layer], _ignore)

    def _caches(self, index: int, forward: LayerwiseForward) -> list[LayerCache]:
        """Return the caches that layer `index` reads: empty ones, or those that an earlier layer has filled."""
        layers = self.decoder.spec.layers
        if (kv_layer := layers[index].kv_layer) is not None:
            return forward.caches[kv_layer]
        if not any(layer.kv_layer == index for layer in layers):
            return self._empty_caches(index, forward)
        if index not in forward.caches:  # else the layer has run before, and may do so without attention
            forward.caches[index] = self._empty_caches(index, forward)
        return forward.caches[index]

    def _empty_caches(self, index: int, forward: LayerwiseForward) -> list[LayerCache]:
        """Return empty caches of layer `index` that are large enough for all batches of the forward pass."""
        groups = [group for batch in forward.batches for group in batch.groups]
        states = [max(group.target_blocks) for group in groups if isinstance(group, StateGroupBatch)]
        attending = [group for group in groups if isinstance(group, KVGroupBatch)]
        blocks = [int(group.block_tables.max()) for group in attending]
        return [
            self.decoder.cache_layout.allocate_layer(
                mixer,
                1 + max(blocks, default=-1),
                max((group.block_size for group in attending), default=1),
                self.device,
                num_states=1 + max(states, default=-1),
            )
            for mixer in self.decoder.mixer_indices(index)
        ]


def layer_of(assignment: Assignment) -> int | None:
    """Return the index of the layer that the tensor belongs to, or None for embeddings, final norm and head."""
    first, _, rest = assignment.destination.module.partition(".")
    return int(rest.partition(".")[0]) if first == "layers" else None


def _ignore(*_: object) -> None:
    """Ignore the progress of loading a single layer."""
