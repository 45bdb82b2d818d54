"""AdapterBank: the adapters of one linear layer, one in each slot, and what they add to the layer's rows."""

from collections.abc import Iterator
from typing import Protocol

import torch
import torch.nn.functional as F

from models.kernels.adapters import AdapterTable, KernelPair
from models.kernels.arena import HugePageArena
from models.kernels.linear import PackedLinear
from models.kernels.packed_weight import WeightFormat, pack_weight
from models.kernels.rows import join_rows, supports_rows
from models.linear.adapter import LayerAdapter, LowRankPair
from models.linear.method import LinearMethod
from models.linear.native import NativeLinearMethod
from models.linear.prologue import Prologue


class AdaptedLayer(Protocol):
    """What a bank sees of its layer."""

    in_features: int
    out_features: int
    bias: torch.Tensor | None
    method: LinearMethod

    def read_rows(self, first: int, count: int) -> torch.Tensor:
        """Rows of the weight, dequantized: [count, in] fp32."""


class AdapterBank(Protocol):
    """The adapters of one layer by slot. A slot is set between steps; a row without an adapter has slot -1."""

    @property
    def needs_product(self) -> bool:
        """Whether some adapter changes W x + b itself, so that a residual may only be added after it."""

    def set(self, slot: int, adapter: LayerAdapter | None, arena: HugePageArena) -> None:
        """Replace what the slot has. arena: memory of this adapter, in all layers."""

    def adapt(self, x: torch.Tensor, prologue: Prologue, y: torch.Tensor, slots: torch.Tensor) -> None:
        """Change the rows y [T, out], of W prologue(x) + b, to those of their slots' adapters; slots: [T] int32.

        y may include a residual unless `needs_product`.
        """


class TorchBank:
    """With torch's operators, on any device."""

    def __init__(self, layer: AdaptedLayer, dtype: torch.dtype) -> None:
        """dtype: of the products."""
        self._layer = layer
        self._dtype = dtype
        self._adapters: dict[int, list[ComputedPair]] = {}
        self._weights: dict[int, torch.Tensor] = {}
        self.needs_product = False

    def set(self, slot: int, adapter: LayerAdapter | None, arena: HugePageArena) -> None:  # noqa: ARG002
        self._adapters.pop(slot, None)
        self._weights.pop(slot, None)
        if adapter is not None and adapter.pairs:
            self._adapters[slot] = [computed_pair(self._layer, pair, self._dtype) for pair in adapter.pairs]
        if adapter is not None and adapter.weight is not None:
            self._weights[slot] = adapter.weight.to(self._dtype)
        self.needs_product = any(pair.gain is not None for pairs in self._adapters.values() for pair in pairs)

    def adapt(self, x: torch.Tensor, prologue: Prologue, y: torch.Tensor, slots: torch.Tensor) -> None:
        if not self._adapters and not self._weights:
            return
        prepared = prologue(x).to(self._dtype)
        for slot, rows in rows_by_slot(slots, (*self._weights, *self._adapters)):
            if (weight := self._weights.get(slot)) is not None:
                y[rows] = F.linear(prepared[rows], weight.to(y.device)).to(y.dtype)
            for pair in self._adapters.get(slot, ()):
                columns = slice(pair.first, pair.first + len(pair.b))
                product = F.linear(F.linear(prepared[rows], pair.a), pair.b)
                y[rows, columns] = pair.added_to(y[rows, columns], product)


class ComputedPair:
    """A pair ready to compute with: y becomes gain * y + b (a x) + shift, where gain and shift may be None.

    With the gains c of a LowRankPair, and y = W x + bias of the layer:
    c (W + scale * b a) x + bias = c y + (c * scale * b) a x + (1 - c) bias.
    """

    def __init__(self, first: int, a: torch.Tensor, b: torch.Tensor) -> None:
        self.first = first
        self.a = a  # [r, in]
        self.b = b  # [rows, r], scaled
        self.gain: torch.Tensor | None = None  # [rows] fp32
        self.shift: torch.Tensor | None = None  # [rows] fp32

    def added_to(self, y: torch.Tensor, product: torch.Tensor) -> torch.Tensor:
        total = y.to(torch.float32)
        if self.gain is not None:
            total = total * self.gain
        total = total + product
        if self.shift is not None:
            total = total + self.shift
        return total.to(y.dtype)


def computed_pair(layer: AdaptedLayer, pair: LowRankPair, dtype: torch.dtype) -> ComputedPair:
    """a and b in `dtype`, on the device of the layer's weight."""
    b = pair.b.to(torch.float32) * pair.scale
    shift = None if pair.bias is None else pair.bias.to(torch.float32) * pair.scale
    gain = pair.gain
    if gain is not None:
        b = b * gain.unsqueeze(1)
        shift = None if shift is None else shift * gain
        if layer.bias is not None:
            own = layer.bias.narrow(0, pair.first, len(b)).to(torch.float32).cpu() * (1 - gain)
            shift = own if shift is None else shift + own
    device = layer.read_rows(0, 1).device
    computed = ComputedPair(pair.first, pair.a.to(device, dtype), b.to(device, dtype))
    computed.gain = None if gain is None else gain.to(device)
    computed.shift = None if shift is None else shift.to(device)
    return computed


def rows_by_slot(slots: torch.Tensor, loaded: tuple[int, ...]) -> Iterator[tuple[int, torch.Tensor]]:
    """Each of the slots `loaded` that some rows have, with these rows' numbers [n] int64."""
    for slot in dict.fromkeys(loaded):
        rows = (slots == slot).nonzero().squeeze(1)
        if len(rows):
            yield slot, rows


class NativeBank:
    """With the native kernel, whose call can be recorded, unless a weight takes the place of the layer's own."""

    def __init__(self, layer: AdaptedLayer, max_slots: int) -> None:
        self._layer = layer
        self._table = AdapterTable(max_slots, layer.in_features)
        self._has_gain = [False] * max_slots
        self._weights: dict[int, PackedLinear] = {}

    @property
    def needs_product(self) -> bool:
        return any(self._has_gain)

    def set(self, slot: int, adapter: LayerAdapter | None, arena: HugePageArena) -> None:
        pairs = () if adapter is None else adapter.pairs
        computed = [computed_pair(self._layer, pair, torch.float32) for pair in pairs]
        kernel_pairs = [
            KernelPair(pair.first, pair.a, each.b, each.gain, each.shift)
            for pair, each in zip(pairs, computed, strict=True)
        ]
        self._table.set(slot, kernel_pairs, arena=arena)
        self._has_gain[slot] = any(pair.gain is not None for pair in computed)
        self._weights.pop(slot, None)
        if adapter is not None and adapter.weight is not None:
            rounded = adapter.weight.to(torch.bfloat16).contiguous()
            self._weights[slot] = PackedLinear([pack_weight(WeightFormat.BF16, rounded, *rounded.shape, arena=arena)])

    def adapt(self, x: torch.Tensor, prologue: Prologue, y: torch.Tensor, slots: torch.Tensor) -> None:
        for slot, rows in rows_by_slot(slots, tuple(self._weights)):
            y[rows] = self._weights[slot](x[rows], prepare=prologue.row_input, out_dtype=y.dtype)
        self._table.adapt(x, slots, y, prepare=prologue.row_input)


def make_bank(layer: AdaptedLayer, max_slots: int) -> AdapterBank:
    """The bank for a layer whose weights are loaded."""
    if isinstance(layer.method, NativeLinearMethod):
        return NativeBank(layer, max_slots)
    return TorchBank(layer, layer.method.bias_dtype)


def add_rows(residual: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """residual + y, written over the residual."""
    if supports_rows(residual) and residual.is_contiguous():
        return join_rows(residual, y, None)
    return residual.add_(y)


class LookUpBank:
    """The adapters of an embedding's look-up, by slot."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pairs: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # a transposed [V, r], and b scaled, [d, r] fp32
        self._weights: dict[int, torch.Tensor] = {}  # [V, d]

    def set(self, slot: int, adapter: LayerAdapter | None) -> None:
        """Replace what the slot has."""
        self._pairs.pop(slot, None)
        self._weights.pop(slot, None)
        if adapter is None:
            return
        if adapter.weight is not None:
            self._weights[slot] = adapter.weight.to(self._device)
        for pair in adapter.pairs:
            b = (pair.b.to(torch.float32) * pair.scale).to(self._device, torch.float32)
            self._pairs[slot] = pair.a.t().contiguous().to(self._device), b

    def adapt(self, ids: torch.Tensor, rows: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        """The rows [T, d] of the ids, changed to those of their slots' adapters; `rows` itself is used up."""
        for slot, places in rows_by_slot(slots, (*self._weights, *self._pairs)):
            if (weight := self._weights.get(slot)) is not None:
                rows[places] = F.embedding(ids[places], weight).to(rows.dtype)
            if (pair := self._pairs.get(slot)) is not None:
                a, b = pair
                product = F.linear(F.embedding(ids[places], a).to(torch.float32), b)
                rows[places] = (rows[places] + product).to(rows.dtype)
        return rows
