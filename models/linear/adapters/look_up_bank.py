"""LookUpBank: the adapters of an embedding's look-up, by slot."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from models.linear.adapters.adapter import LayerAdapter
from models.linear.adapters.torch_bank import rows_by_slot


@dataclass(frozen=True, slots=True, eq=False)
class LookUpAdapter:
    """What a slot has. The weight takes the place of the table."""

    pairs: tuple[tuple[torch.Tensor, torch.Tensor], ...]  # a transposed [V, r], and b scaled, [d, r] fp32
    weight: torch.Tensor | None  # [V, d]


class LookUpBank:
    """As an AdapterBank: `prepare` by any thread, `set` between steps."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._adapters: dict[int, LookUpAdapter] = {}

    def prepare(self, adapter: LayerAdapter) -> LookUpAdapter:
        pairs = []
        for pair in adapter.pairs:
            b = (pair.b.to(torch.float32) * pair.scale).to(self._device, torch.float32)
            pairs.append((pair.a.t().contiguous().to(self._device), b))
        return LookUpAdapter(tuple(pairs), None if adapter.weight is None else adapter.weight.to(self._device))

    def set(self, slot: int, prepared: LookUpAdapter | None) -> None:
        """Replace what the slot has."""
        self._adapters.pop(slot, None)
        if prepared is not None:
            self._adapters[slot] = prepared

    def adapt(self, ids: torch.Tensor, rows: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        """The rows [T, d] of the ids, changed to those of their slots' adapters; `rows` itself is used up."""
        for slot, places in rows_by_slot(slots, tuple(self._adapters)):
            adapter = self._adapters[slot]
            if adapter.weight is not None:
                rows[places] = F.embedding(ids[places], adapter.weight).to(rows.dtype)
            for a, b in adapter.pairs:
                product = F.linear(F.embedding(ids[places], a).to(torch.float32), b)
                rows[places] = (rows[places] + product).to(rows.dtype)
        return rows
