"""LayerStream: a decoder of which one layer at a time is in memory, to compute with models that do not fit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from models.attention.rotation import Rotation
from models.attention.select import select_backend
from models.batch import ForwardBatch, KVGroupBatch, StateGroupBatch
from models.decoder import allocate_module
from models.kernels.cpu.library import load_kernels
from models.linear.storage import WeightOptions
from models.loaded_model import ComputeConfig
from models.loading.assign import Assignment, fill
from models.loading.load import build_skeleton
from models.loading.open import OpenedModel
from models.progress import ProgressReport
from models.recurrence.state import LayerCache, empty_state, state_parts


@dataclass(slots=True, eq=False)
class LayerwiseForward:
    """A sequence on its way through the layers: the steps that compute it, and each step's rows [T, hidden]."""

    batches: Sequence[ForwardBatch]
    rotations: list[list[Rotation]]
    rows: list[torch.Tensor]

    def hidden(self) -> torch.Tensor:
        """All rows in their order."""
        return torch.cat(self.rows)


class LayerStream:
    """Embeddings, norms and head stay in memory; a layer's weights are read when it is visited and then let go.

    Invariant: `layers` visits each layer once, in order.
    """

    def __init__(
        self, opened: OpenedModel, *, dtype: torch.dtype, device: torch.device, weights: WeightOptions | None = None
    ) -> None:
        """weights: as load_model takes them. Raises a ModelError, before anything large is read."""
        if device.type == "cpu":
            load_kernels(on_compile=lambda: None)
        self.device = device
        self._backend, _ = select_backend(opened.spec.attention_specs, dtype, device)
        compute = ComputeConfig(self._backend, dtype, device)
        self.decoder, self.plan, _ = build_skeleton(opened, compute, weights or WeightOptions())
        self.decoder.eval()

    def read_ends(self) -> None:
        """Read all that is in no layer."""
        self.decoder.allocate_ends(self.device)
        fill(self.decoder, [each for each in self.plan if layer_of(each) is None], _ignore)

    def begin(self, batches: Sequence[ForwardBatch]) -> LayerwiseForward:
        """Before the first layer. batches: one sequence's steps in order, its blocks from 0 on in each group."""
        rotations = [self.decoder.rotations(batch) for batch in batches]
        return LayerwiseForward(batches, rotations, [self.decoder.embedded(batch) for batch in batches])

    def layers(self, stage: str, progress: ProgressReport) -> Iterator[tuple[int, nn.Module]]:
        """Each layer with its number, while it is in memory."""
        total = len(self.decoder.layers)
        for index in range(total):
            progress(stage, index, total, "layers")
            layer = self.decoder.layers[index]
            allocate_module(layer, self.device)
            fill(self.decoder, [each for each in self.plan if layer_of(each) == index], _ignore)
            yield index, layer
            self.decoder.layers[index] = nn.Identity()
        progress(stage, total, total, "layers")

    def compute(self, index: int, forward: LayerwiseForward, *, advances: bool = True) -> None:
        """Run layer `index` over the rows; with `advances`, its output replaces them."""
        kv = self._cache(index, forward)
        for step, (batch, rotations) in enumerate(zip(forward.batches, forward.rotations, strict=True)):
            rows = forward.rows[step]
            out = self.decoder.run_layer(index, rows if advances else rows.clone(), rotations, batch, kv)
            if advances:
                forward.rows[step] = out

    def _cache(self, index: int, forward: LayerwiseForward) -> LayerCache:
        """An empty cache for one layer, as large as the sequence needs."""
        spec, dtype = self.decoder.spec.layers[index], self.decoder.dtype
        groups = [group for batch in forward.batches for group in batch.groups]
        if spec.recurrence is not None:
            states = 1 + max(max(group.target_blocks) for group in groups if isinstance(group, StateGroupBatch))
            return empty_state(state_parts(spec.recurrence, dtype), states, self.device)
        blocks = 1 + max(int(group.block_tables.max()) for group in groups if isinstance(group, KVGroupBatch))
        shape = self._backend.kv_shape(spec.attention, blocks, forward.batches[0].block_size)
        return torch.empty(shape, dtype=dtype, device=self.device)


def layer_of(assignment: Assignment) -> int | None:
    """The number of the layer that the tensor belongs to, or None."""
    first, _, rest = assignment.destination.module.partition(".")
    return int(rest.partition(".")[0]) if first == "layers" else None


def _ignore(*_: object) -> None:
    """Parts of a model are read without a report."""
