"""A stranger to the engine that decodes its KV events, and an in-process publisher that feeds one."""

from collections import defaultdict
from typing import Any

import msgspec

from engine.protocol.kv_events import EventBatch, KVEvent

BLOCK_FIELDS = {"block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium", "lora_name"}


class KVSubscriber:
    """Rebuilds the sets of cached blocks, by medium, from batches in vLLM's format."""

    def __init__(self) -> None:
        self.cached: defaultdict[str, set[int]] = defaultdict(set)
        self.events: list[dict[str, Any]] = []

    def receive(self, payload: bytes) -> None:
        _, events, rank = msgspec.msgpack.decode(payload)
        assert rank == 0
        for event in events:
            self.events.append(event)
            match event["type"]:
                case "AllBlocksCleared":
                    self.cached.clear()
                case "BlockRemoved":
                    assert self.cached[event["medium"]].issuperset(event["block_hashes"]), "a block is removed twice"
                    self.cached[event["medium"]].difference_update(event["block_hashes"])
                case "BlockStored":
                    self._store(event)

    def _store(self, event: dict[str, Any]) -> None:
        assert event.keys() >= BLOCK_FIELDS
        hashes = event["block_hashes"]
        if event["medium"] == "GPU":
            assert len(event["token_ids"]) == len(hashes) * event["block_size"]
        assert self.cached[event["medium"]].isdisjoint(hashes), "a block is stored twice"
        self.cached[event["medium"]].update(hashes)


class CollectingPublisher:
    """An EventPublisher that gives every batch to a subscriber, encoded."""

    def __init__(self) -> None:
        self.subscriber = KVSubscriber()

    def publish(self, events: list[KVEvent]) -> None:
        self.subscriber.receive(msgspec.msgpack.encode(EventBatch(0.0, events)))

    def take_num_dropped(self) -> int:
        return 0

    def close(self) -> None:
        pass
