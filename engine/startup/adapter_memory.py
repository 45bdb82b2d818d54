"""AdapterMemory: memory to reserve for LoRA adapters before the KV cache is sized."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from engine.config import EngineConfig
from engine.runner.kv_budget import format_bytes
from engine.wording import counted
from models.linear.adapters.memory import packed_numbers, pair_numbers, stacked_numbers
from models.linear.linear import Linear
from models.system.memory import is_host

_COPY_ELEMENT_BYTES = 4  # PEFT often saves fp32
_NUM_IN_FLIGHT = 2  # adapters that are being read: one for an operator, and one for a slot
_MOST_SHARE = 0.5  # of free memory that is set aside: adapters may be much smaller than the limits allow


@dataclass(frozen=True, slots=True)
class AdapterMemory:
    """Memory of adapters at the maximum rank, for all layers but embeddings and, on the host, the output layer.

    Slots hold the adapters in use; copies are adapters as they were read from their files, in host memory. Slots on a
    device are allocated with the model, so that a measurement of its memory has counted them.
    """

    rank: int
    num_slots: int
    slot_bytes: int
    num_copies: int
    copy_bytes: int
    is_on_host: bool  # whether slots are in host memory too

    @property
    def slots_bytes(self) -> int:
        return self.num_slots * self.slot_bytes

    @property
    def total_bytes(self) -> int:
        return self.slots_bytes + (self.num_copies + _NUM_IN_FLIGHT) * self.copy_bytes

    @property
    def device_bytes(self) -> int:
        """Bytes in the memory that holds the KV cache."""
        return self.total_bytes if self.is_on_host else self.slots_bytes

    def reserved_bytes(self, free_bytes: int) -> int:
        """Return the bytes to set aside for adapters. free_bytes: memory available to the KV cache and adapters."""
        return min(self.device_bytes, int(free_bytes * _MOST_SHARE)) if self.is_on_host else 0

    def note(self) -> str:
        """Return a line for the operator that states slots, copies and their memory."""
        return (
            f"Adapters: {counted(self.num_slots, 'slot')} of {format_bytes(self.slot_bytes)} and "
            f"{counted(self.num_copies, 'copy', 'copies')} of {format_bytes(self.copy_bytes)} at rank {self.rank:,}; "
            f"up to {format_bytes(self.total_bytes)} in all"
        )

    def warning(self, free_bytes: int, kv_bytes: int) -> str | None:
        """Return a warning if adapters and the KV cache do not fit into `free_bytes` together."""
        if not self.is_on_host or self.device_bytes + kv_bytes <= free_bytes:
            return None
        return (
            f"adapters may take {format_bytes(self.device_bytes)}, and beside the KV cache of {format_bytes(kv_bytes)} "
            f"{format_bytes(max(0, free_bytes - kv_bytes))} are free; lower --max-lora-rank ({self.rank:,}) to that of "
            f"your adapters, --max-loras ({self.num_slots:,}) or --max-cpu-loras ({self.num_copies:,})"
        )


def adapter_memory(
    config: EngineConfig, adapted: Mapping[str, Linear], dtype: torch.dtype, device: torch.device
) -> AdapterMemory:
    """Compute the memory of adapters. adapted: a decoder's `adapted_layers`, maybe unallocated. dtype: the slots'."""
    layers = [layer for name, layer in adapted.items() if name != "head"]
    slot_numbers = packed_numbers(layers, config.max_lora_rank)
    if not is_host(device):
        slot_numbers = stacked_numbers(adapted.values(), config.max_lora_rank)
    return AdapterMemory(
        rank=config.max_lora_rank,
        num_slots=config.max_loras,
        slot_bytes=slot_numbers * dtype.itemsize,
        num_copies=config.max_adapters_on_host,
        copy_bytes=pair_numbers(layers, config.max_lora_rank) * _COPY_ELEMENT_BYTES,
        is_on_host=is_host(device),
    )
