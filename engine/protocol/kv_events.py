"""Events about cached blocks, in vLLM's wire format: for balancers that send a prompt where its prefix is cached.

They are maps with the key "type". A batch is the array [time, events, rank].
"""

from typing import Protocol

import msgspec

POOL = "GPU"  # vLLM's name for the medium of an engine's own cache, on a CPU too: balancers credit no other
DISK = "DISK"


class BlockStored(msgspec.Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    """Blocks that became cached, each behind the one before it.

    The blocks of a tier have no tokens here: subscribers know them from the pool's events with the same hashes.
    """

    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]  # block_size for each block; [] if `medium` is not the pool
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None
    extra_keys: list[list[str] | None] | None = None  # for each block; a sequence's first one has its cache salt
    group_idx: int | None = None  # of layers that share block tables; None if there is one group
    kv_cache_spec_kind: str | None = None
    kv_cache_spec_sliding_window: int | None = None


class BlockRemoved(msgspec.Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    """Blocks that are not cached any more."""

    block_hashes: list[int]
    medium: str | None
    group_idx: int | None = None


class AllBlocksCleared(msgspec.Struct, frozen=True, tag=True):
    """The end of all blocks that earlier events have named, in every medium."""


KVEvent = BlockStored | BlockRemoved | AllBlocksCleared


class EventBatch(msgspec.Struct, frozen=True, array_like=True):
    """The events of one step. ts: seconds since the epoch."""

    ts: float
    events: list[KVEvent]
    data_parallel_rank: int = 0


def block_hash(key: bytes) -> int:
    """Return the hash, of 64 bits, that names a block with this key (engine/scheduling/kv/prefixes.py) in events."""
    return int.from_bytes(key[:8]) ^ int.from_bytes(key[-2:])


class EventPublisher(Protocol):
    """The receiver of an engine's events (engine/kv_events/publisher.py)."""

    def publish(self, events: list[KVEvent]) -> None:
        """Take the events of a step without waiting for anything."""
        ...

    def take_num_dropped(self) -> int:
        """Return how many events were dropped since the last call."""
        ...

    def close(self) -> None: ...
