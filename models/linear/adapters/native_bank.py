"""NativeBank: the adapters of one linear layer, computed by native kernels in calls that can be recorded."""

from dataclasses import dataclass

import torch

from models.kernels.cpu.adapters import AdapterTable, PackedPairs
from models.kernels.cpu.arena import HugePageArena
from models.kernels.cpu.library import required_library
from models.kernels.cpu.linear import PackedLinear
from models.kernels.cpu.packed_weight import pack_weight
from models.kernels.formats import WeightFormat
from models.kernels.row_input import Prologue
from models.linear.adapters.adapter import LayerAdapter
from models.linear.adapters.computed_pair import AdaptedLayer, computed_pair
from models.linear.adapters.torch_bank import rows_by_slot
from models.linear.native import NativeLinearMethod


@dataclass(frozen=True, slots=True, eq=False)
class NativeAdapter:
    """An adapter in a slot: LoRA pairs packed for the kernels, and a weight used instead of the layer's own, if any."""

    packed: PackedPairs | None
    has_gain: bool
    weight: PackedLinear | None


class NativeBank:
    """An AdapterBank that computes with native kernels.

    Calls cannot be recorded while a slot has a weight that replaces the layer's own, or, in a layer with a residual, is
    one of `residual_last_slots`.
    """

    def __init__(self, layer: AdaptedLayer, method: NativeLinearMethod, max_slots: int) -> None:
        """method: the layer's linear method."""
        self._layer = layer
        self._method = method
        self._table = AdapterTable(max_slots, layer.in_features)
        self._gain_slots: set[int] = set()
        self._weights: dict[int, PackedLinear] = {}

    @property
    def residual_last_slots(self) -> tuple[int, ...]:
        packed = self._method.packed
        assert packed is not None, "process_after_loading() comes first"
        # A fused call adds residuals last, except for many rows on AMX.
        is_added_last = packed.takes_adapters and required_library().level != "amx"
        return () if is_added_last else tuple(self._gain_slots)

    @property
    def variant(self) -> bool:
        return bool(self.residual_last_slots)

    def prepare(self, adapter: LayerAdapter, arena: HugePageArena) -> NativeAdapter:
        pairs = [computed_pair(self._layer, pair) for pair in adapter.pairs]
        weight = None
        if adapter.weight is not None:
            rounded = adapter.weight.to(torch.bfloat16).contiguous()
            weight = PackedLinear([pack_weight(WeightFormat.BF16, rounded, *rounded.shape, arena=arena)])
        has_gain = any(pair.gain is not None for pair in pairs)
        return NativeAdapter(self._table.pack(pairs, arena=arena), has_gain, weight)

    def set(self, slot: int, prepared: NativeAdapter | None) -> None:
        self._table.set(slot, None if prepared is None else prepared.packed)
        self._gain_slots.discard(slot)
        self._weights.pop(slot, None)
        if prepared is None:
            return
        if prepared.has_gain:
            self._gain_slots.add(slot)
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
        packed = self._method.packed
        assert packed is not None, "process_after_loading() comes first"
        prepare = prologue.row_input
        # The choice never depends on the other slots, since the two ways round differently.
        fused = self._table.rows(slots) if packed.takes_adapters else None
        y = packed(x, prepare=prepare, residual=residual, out=residual, out_dtype=out_dtype, adapted=fused)
        for slot, indices in rows_by_slot(slots, tuple(self._weights)):
            replaced = self._weights[slot](x[indices], prepare=prepare, out_dtype=y.dtype)
            if fused is not None:
                self._table.adapt(x[indices], slots[indices], replaced, prepare=prepare)
            y[indices] = replaced
        if fused is None:
            self._table.adapt(x, slots, y, prepare=prepare)
        return y
