"""LookUpBank: LoRA adapters of an embedding, by slot."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from models.linear.adapters.adapter import LayerAdapter
from models.linear.adapters.torch_bank import rows_by_slot


@dataclass(frozen=True, slots=True, eq=False)
class LookUpAdapter:
    """An embedding's adapter in a slot: LoRA pairs, and a table that replaces the embedding's own, if not None."""

    pairs: tuple[tuple[torch.Tensor, torch.Tensor], ...]  # a transposed [V, r], and b scaled, [d, r] fp32
    weight: torch.Tensor | None  # [V, d]


class LookUpBank:
    """LoRA adapters of an embedding, by slot. `prepare` may run on any thread, `set` only between steps."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._adapters: dict[int, LookUpAdapter] = {}

    @property
    def variant(self) -> object:
        """A value that changes when steps with adapters read other memory: see AdapterBank."""
        return None  # steps compute the look-up anew

    def prepare(self, adapter: LayerAdapter) -> LookUpAdapter:
        pairs = []
        for pair in adapter.pairs:
            b = (pair.b.to(torch.float32) * pair.scale).to(self._device, torch.float32)
            pairs.append((pair.a.t().contiguous().to(self._device), b))
        return LookUpAdapter(tuple(pairs), None if adapter.weight is None else adapter.weight.to(self._device))

    def set(self, slot: int, prepared: LookUpAdapter | None) -> None:
        self._adapters.pop(slot, None)
        if prepared is not None:
            self._adapters[slot] = prepared

    def adapt(self, ids: torch.Tensor, rows: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        """Apply the adapter of each row's slot to the embeddings `rows` [T, d] of `ids`; may overwrite them."""
        for slot, indices in rows_by_slot(slots, tuple(self._adapters)):
            rows[indices] = _adapted(ids[indices], rows[indices], self._adapters[slot])
        return rows


class MaskedLookUpBank(LookUpBank):
    """A LookUpBank that computes each adapter for all rows, so that the host need not know which ones have it."""

    @property
    def variant(self) -> tuple[LookUpAdapter, ...]:
        return tuple(self._adapters.values())

    def adapt(self, ids: torch.Tensor, rows: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        for slot, adapter in self._adapters.items():
            rows = torch.where((slots == slot).unsqueeze(-1), _adapted(ids, rows, adapter), rows)
        return rows


def _adapted(ids: torch.Tensor, rows: torch.Tensor, adapter: LookUpAdapter) -> torch.Tensor:
    """Return the embeddings `rows` [n, d] of `ids` with an adapter."""
    if adapter.weight is not None:
        rows = F.embedding(ids, adapter.weight).to(rows.dtype)
    for a, b in adapter.pairs:
        rows = (rows + F.linear(F.embedding(ids, a).to(torch.float32), b)).to(rows.dtype)
    return rows
