"""TorchBank: the adapters of one linear layer, computed by torch on any device."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from models.kernels.cpu.arena import HugePageArena
from models.kernels.operands import LowRankChange
from models.kernels.row_input import Prologue
from models.linear.adapters.adapter import LayerAdapter
from models.linear.adapters.computed_pair import AdaptedLayer, computed_pair


@dataclass(frozen=True, slots=True, eq=False)
class TorchAdapter:
    """An adapter in a slot: its LoRA pairs, and a weight used instead of the layer's own, if any."""

    pairs: tuple[LowRankChange, ...]
    weight: torch.Tensor | None


class TorchBank:
    """An AdapterBank that computes with torch."""

    def __init__(self, layer: AdaptedLayer, dtype: torch.dtype) -> None:
        """dtype: the dtype of products with the LoRA matrices."""
        self._layer = layer
        self._dtype = dtype
        self._adapters: dict[int, TorchAdapter] = {}
        self.residual_last_slots: tuple[int, ...] = ()
        self.variant = None  # steps with this bank are not recorded

    def prepare(self, adapter: LayerAdapter, arena: HugePageArena) -> TorchAdapter:  # noqa: ARG002
        device = self._layer.read_rows(0, 1).device
        pairs = []
        for pair in adapter.pairs:
            change = computed_pair(self._layer, pair)
            a, b = (matrix.to(device, self._dtype) for matrix in (change.a, change.b))
            vectors = (None if vector is None else vector.to(device) for vector in (change.gain, change.shift))
            pairs.append(LowRankChange(change.first, a, b, *vectors))
        return TorchAdapter(tuple(pairs), None if adapter.weight is None else adapter.weight.to(device, self._dtype))

    def set(self, slot: int, prepared: TorchAdapter | None) -> None:
        self._adapters.pop(slot, None)
        if prepared is not None:
            self._adapters[slot] = prepared
        self.residual_last_slots = tuple(
            slot for slot, each in self._adapters.items() if any(pair.gain is not None for pair in each.pairs)
        )

    def multiply(
        self,
        x: torch.Tensor,
        prologue: Prologue,
        residual: torch.Tensor | None,
        out_dtype: torch.dtype | None,
        slots: torch.Tensor,
    ) -> torch.Tensor:
        y = self._layer.method.apply(x, self._layer, prologue, residual, out_dtype)
        if not self._adapters:
            return y
        prepared = prologue(x).to(self._dtype)
        for slot, rows in rows_by_slot(slots, tuple(self._adapters)):
            adapter = self._adapters[slot]
            if adapter.weight is not None:
                y[rows] = F.linear(prepared[rows], adapter.weight).to(y.dtype)
            for pair in adapter.pairs:
                columns = slice(pair.first, pair.first + len(pair.b))
                product = F.linear(F.linear(prepared[rows], pair.a), pair.b)
                y[rows, columns] = _changed(y[rows, columns], pair, product)
        return y


def _changed(y: torch.Tensor, change: LowRankChange, product: torch.Tensor) -> torch.Tensor:
    """Return gain * y + product + shift in y's dtype, computed in fp32."""
    total = y.to(torch.float32)
    if change.gain is not None:
        total = total * change.gain
    total = total + product
    if change.shift is not None:
        total = total + change.shift
    return total.to(y.dtype)


def rows_by_slot(slots: torch.Tensor, loaded: tuple[int, ...]) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield each slot in `loaded` that some rows use, with the indices [n] int64 of these rows."""
    for slot in loaded:
        rows = (slots == slot).nonzero().squeeze(1)
        if len(rows):
            yield slot, rows
