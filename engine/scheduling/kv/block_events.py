"""BlockEvents: records which blocks become cached, and which are forgotten, for subscribers outside the engine."""

from engine.protocol.kv_events import POOL, BlockRemoved, BlockStored, KVEvent, block_hash
from engine.scheduling.kv.groups import KVGroup
from engine.scheduling.kv.prefixes import PrefixIndex, group_of_key
from engine.scheduling.sequence import Sequence


class BlockEvents:
    """Collects the events of a step, in the order in which they happen.

    Blocks of one sequence that follow each other make one event. Unfinished blocks (BlockTails) have no events, since
    no other prompt finds them. Invariant: `published` has the keys of the blocks that a subscriber knows to be cached.
    """

    def __init__(self, prefixes: PrefixIndex) -> None:
        self._prefixes = prefixes
        self._has_groups = len(prefixes.groups) > 1
        self.published: set[bytes] = set()
        self._events: list[KVEvent] = []
        # The sequence, group and entry whose block the last event can take, too.
        self._next: tuple[Sequence, int, int] | None = None

    def store(self, sequence: Sequence, index: int, entry: int) -> None:
        """Record that the block of an entry of a group's table has become cached, under its key."""
        group, key = self._prefixes.groups[index], self._prefixes.key(index, sequence.unit_hashes, entry)
        self.published.add(key)
        start = entry * group.block_size
        token_ids = sequence.tokens[start : start + group.block_size]
        is_next = self._next is not None and self._next[0] is sequence and self._next[1:] == (index, entry)
        self._next = (sequence, index, entry + 1)
        last = self._events[-1] if is_next else None
        if isinstance(last, BlockStored):
            last.block_hashes.append(block_hash(key))
            last.token_ids.extend(token_ids)
            if last.extra_keys is not None:
                last.extra_keys.append(None)
            return
        request = sequence.request
        parent = None if entry == 0 else block_hash(self._prefixes.key(index, sequence.unit_hashes, entry - 1))
        self._events.append(
            BlockStored(
                block_hashes=[block_hash(key)],
                parent_block_hash=parent,
                token_ids=list(token_ids),
                block_size=group.block_size,
                lora_id=None,
                medium=POOL,
                lora_name=None if request.adapter is None else request.adapter.name,
                extra_keys=[[request.cache_salt]] if request.cache_salt and entry == 0 else None,
                group_idx=index if self._has_groups else None,
                kv_cache_spec_kind=_kind(group),
                kv_cache_spec_sliding_window=group.window,
            )
        )

    def remove(self, key: bytes) -> None:
        """Record that a block with this key is not cached any more. Keys without an event are ignored."""
        if key not in self.published:
            return
        self.published.discard(key)
        self._next = None
        group = group_of_key(key) if self._has_groups else None
        last = self._events[-1] if self._events else None
        if isinstance(last, BlockRemoved) and last.group_idx == group:
            last.block_hashes.append(block_hash(key))
        else:
            self._events.append(BlockRemoved(block_hashes=[block_hash(key)], medium=POOL, group_idx=group))

    def take(self) -> list[KVEvent]:
        """Return the events since the last call."""
        events, self._events, self._next = self._events, [], None
        return events


def _kind(group: KVGroup) -> str:
    """Return vLLM's name for a group's kind of layers."""
    if group.is_state:
        return "mamba"
    if group.window is None:
        return "full_attention"
    return "chunked_local_attention" if group.is_chunked else "sliding_window"
