"""StackedBank: the adapters of one linear layer on a GPU, in memory of all slots that kernels index by a row's slot."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from models.kernels.cpu.arena import HugePageArena
from models.kernels.operands import LowRankChange, LowRankStack
from models.kernels.row_input import Prologue
from models.kernels.torch.linear import LinearOperations
from models.linear.adapters.adapter import LayerAdapter
from models.linear.adapters.computed_pair import AdaptedLayer, computed_pair

_RANKS = 16  # that kernels multiply together


@dataclass(frozen=True, slots=True, eq=False)
class StackedAdapter:
    """An adapter's part for one layer, on the device: what `StackedBank.set` copies into a slot.

    pairs: part of the layer, a [r, in], first output, and b [outputs, r] of each. vectors: gains and shifts, [2, out]
    fp32, or None. weight: used instead of the layer's own, if any.
    """

    pairs: tuple[tuple[int, torch.Tensor, int, torch.Tensor], ...]
    vectors: torch.Tensor | None
    weight: torch.Tensor | None


class StackedBank:
    """An AdapterBank that computes all slots in one product, without a number that the host reads.

    Slots have room for pairs of `max_rank`, which is allocated with the bank; so captured steps stay valid when a slot
    gets another adapter. They do not if the first adapter with a gain or bias comes, or if a weight is replaced.
    """

    residual_last_slots = ()  # gains do not scale the residual

    def __init__(self, layer: AdaptedLayer, max_slots: int, max_rank: int, operations: LinearOperations) -> None:
        """operations: with `add_low_rank`."""
        self._layer = layer
        self._dtype = layer.method.bias_dtype
        self._operations = operations
        device = layer.read_rows(0, 1).device
        self._parts = list(layer.shards.values()) or [layer.rows(None)]
        outputs, rank = layer.rows(None)[1], stacked_rank(max_rank)
        self._stack = LowRankStack(
            torch.empty(max_slots, len(self._parts), rank, layer.in_features, dtype=self._dtype, device=device),
            torch.empty(max_slots, outputs, rank, dtype=self._dtype, device=device),
            torch.zeros(max_slots, len(self._parts), dtype=torch.int32, device=device),
            torch.tensor(self._parts, dtype=torch.int32, device=device),
            max(count for _, count in self._parts),
        )
        self._weights: dict[int, torch.Tensor] = {}

    @property
    def variant(self) -> tuple[bool, tuple[int, ...]]:
        return self._stack.vectors is not None, tuple(map(id, self._weights.values()))

    def prepare(self, adapter: LayerAdapter, arena: HugePageArena) -> StackedAdapter:  # noqa: ARG002
        device, dtype = self._stack.a.device, self._dtype
        changes = [computed_pair(self._layer, pair) for pair in adapter.pairs]
        pairs = []
        for change in changes:
            a, b = change.a.to(device, dtype), change.b.to(device, dtype)
            for part, first, count in self._parts_of(change):
                pairs.append((part, a, first, b[first - change.first :][:count]))
        weight = None if adapter.weight is None else adapter.weight.to(device, dtype)
        vectors = _vectors(changes, self._layer.rows(None)[1])
        return StackedAdapter(tuple(pairs), None if vectors is None else vectors.to(device), weight)

    def _parts_of(self, change: LowRankChange) -> Iterator[tuple[int, int, int]]:
        """Yield the number, first output and outputs of each part that a pair changes: one, or all of the layer."""
        for part, (first, count) in enumerate(self._parts):
            if change.first <= first < change.first + len(change.b):
                assert first + count <= change.first + len(change.b), "a pair changes a part of a shard"
                yield part, first, count

    @torch.inference_mode()
    def set(self, slot: int, prepared: StackedAdapter | None) -> None:
        self._weights.pop(slot, None)
        stack = self._stack
        stack.ranks[slot].zero_()
        if stack.vectors is not None:
            stack.vectors[slot].copy_(_no_vectors(stack.vectors[slot]))
        if prepared is None:
            return
        for part, a, first, b in prepared.pairs:
            stack.a[slot, part, : len(a)].copy_(a)
            stack.b[slot, first : first + len(b), : len(a)].copy_(b)
            stack.ranks[slot, part].fill_(len(a))
        if prepared.vectors is not None:
            if (vectors := stack.vectors) is None:
                slots, outputs = stack.b.shape[:2]
                vectors = _no_vectors(stack.b.new_empty(slots, 2, outputs, dtype=torch.float32))
                self._stack = stack._replace(vectors=vectors)
            vectors[slot].copy_(prepared.vectors)
        if prepared.weight is not None:
            self._weights[slot] = prepared.weight

    def multiply(
        self,
        x: torch.Tensor,
        prologue: Prologue,
        residual: torch.Tensor | None,
        out_dtype: torch.dtype | None,
        slots: torch.Tensor,
    ) -> torch.Tensor:
        rows = self._operations.prepare(x, prologue, self._dtype)
        own_residual = None if residual is None or self._stack.vectors is None else residual.clone()
        y = self._layer.method.apply(x, self._layer, prologue, residual, out_dtype)
        for slot, weight in self._weights.items():
            y = torch.where((slots == slot).unsqueeze(1), F.linear(rows, weight).to(y.dtype), y)
        self._operations.add_low_rank(rows, slots, self._stack, y, own_residual)
        return y


def stacked_rank(rank: int) -> int:
    """Return the rank of pairs that slots have room for, of at least `rank`."""
    return -(-rank // _RANKS) * _RANKS


def _vectors(changes: Sequence[LowRankChange], outputs: int) -> torch.Tensor | None:
    """Return gains and shifts of all outputs, [2, outputs] fp32 on the CPU; None if no change has any."""
    if all(change.gain is None and change.shift is None for change in changes):
        return None
    vectors = _no_vectors(torch.empty(2, outputs))
    for change in changes:
        for row, vector in zip(vectors, (change.gain, change.shift), strict=True):
            if vector is not None:
                row[change.first : change.first + len(vector)] = vector
    return vectors


def _no_vectors(like: torch.Tensor) -> torch.Tensor:
    """Return gains of 1 and shifts of 0 in the shape [.., 2, outputs] of `like`."""
    vectors = torch.zeros_like(like)
    vectors[..., 0, :] = 1.0
    return vectors
