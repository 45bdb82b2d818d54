"""DecoderAdapters: loads adapters into slots of all layers of a decoder."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.errors import AdapterError
from models.kernels.cpu.arena import HugePageArena
from models.kernels.torch.linear import LinearOperations
from models.linear.adapters.adapter import Adapter
from models.linear.adapters.look_up_bank import LookUpAdapter
from models.linear.embedding import Embedding
from models.linear.linear import Linear


@dataclass(frozen=True, slots=True, eq=False)
class PreparedAdapter:
    """An adapter that is converted for a decoder, ready to be put into a slot.

    layers: the part for each layer's bank, by the layer's name. look_up: the part for the token embedding, or None.
    """

    layers: Mapping[str, Any]
    look_up: LookUpAdapter | None


class DecoderAdapters:
    """Adapter slots in all layers. `prepare` may run on any thread, also during a step, `set` only between steps.

    `set` computes nothing, so that generation does not wait for it.
    """

    def __init__(
        self,
        embed: Embedding | None,
        layers: Mapping[str, Linear],
        max_slots: int,
        max_rank: int,
        operations: LinearOperations,
    ) -> None:
        """embed: the token embedding; None if adapters cannot change it. layers: the layers that adapters may change,
        by name, with their weights loaded. operations: the device's."""
        self._embed = embed
        self._layers = layers
        self._max_slots, self._max_rank = max_slots, max_rank
        self.version = 0  # changes if recordings of steps with adapters become invalid
        if embed is not None:
            embed.enable_look_up_adapters(operations)
        for layer in layers.values():
            layer.enable_adapters(max_slots, max_rank, operations)

    def prepare(self, adapter: Adapter) -> PreparedAdapter:
        """Convert an adapter for a slot. Raises AdapterError if its rank exceeds the limit, and MemoryError."""
        if adapter.rank > self._max_rank:
            raise AdapterError(
                f"the adapter has rank {adapter.rank}; at most {self._max_rank} is served; raise --max-lora-rank"
            )
        arena = HugePageArena()  # the adapter's own, whose memory is free again when the slot gets another adapter
        layers = {}
        for name, layer in self._layers.items():
            if (change := adapter.layers.get(name)) is not None:
                assert layer.adapters is not None
                layers[name] = layer.adapters.prepare(change, arena)
        look_up = adapter.layers.get("embed")
        if look_up is None:
            return PreparedAdapter(layers, None)
        assert self._embed is not None
        assert self._embed.look_up_adapters is not None
        return PreparedAdapter(layers, self._embed.look_up_adapters.prepare(look_up))

    def set(self, slot: int, prepared: PreparedAdapter | None) -> None:
        assert 0 <= slot < self._max_slots, f"slot {slot} of {self._max_slots}"
        before = self._variants()
        if self._embed is not None:
            assert self._embed.look_up_adapters is not None
            self._embed.look_up_adapters.set(slot, None if prepared is None else prepared.look_up)
        for name, layer in self._layers.items():
            assert layer.adapters is not None
            layer.adapters.set(slot, None if prepared is None else prepared.layers.get(name))
        self.version += self._variants() != before

    def _variants(self) -> list[object]:
        """Return the variants of all banks."""
        look_up = None if self._embed is None else self._embed.look_up_adapters
        banks = (layer.adapters for layer in self._layers.values())
        of_layers = [None if bank is None else bank.variant for bank in banks]
        return [None if look_up is None else look_up.variant, *of_layers]
