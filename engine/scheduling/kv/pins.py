"""PinnedPrefixes: named prefixes whose blocks stay in the KV cache; saves prefixes, and reports where they are."""

import logging
from collections import Counter
from collections.abc import Set

from engine.protocol import NamedPrefix, PrefixAction, PrefixReport
from engine.scheduling.kv.block_pool import BlockPool
from engine.scheduling.kv.moves import PendingMoves
from engine.scheduling.kv.prefixes import PrefixIndex, unit_hashes

logger = logging.getLogger(__name__)


class PinnedPrefixes:
    """Blocks that are kept for operators. Not for models with recurrent states.

    A pin holds a reference to each of its blocks, so that they count as used. Invariant: the pins together hold at most
    `max_blocks` different blocks, which leaves enough for any request (SchedulerConfig.max_pinned_blocks). Names may
    share blocks.
    """

    def __init__(
        self, prefixes: PrefixIndex, pool: BlockPool, max_blocks: int, moves: PendingMoves | None = None
    ) -> None:
        """moves: saves blocks to a tier; None without one."""
        self._prefixes = prefixes
        self._pool = pool
        self._max_blocks = max_blocks
        self._moves = moves
        self._by_name: dict[str, list[int]] = {}
        self.references: Counter[int] = Counter()  # number of pins by block; no zeros

    @property
    def num_blocks(self) -> int:
        """Number of blocks that are pinned; blocks of several names count once."""
        return len(self.references)

    def handle(self, action: PrefixAction, prefix: NamedPrefix) -> PrefixReport:
        """Carry out the action, and report the prefix. A pin replaces the one with the same name. A prefix is not
        pinned while the cache lacks any of its blocks. Saved blocks are on disk some time after the next step."""
        adapter = None if prefix.adapter is None else prefix.adapter.digest
        hashes = unit_hashes(prefix.prompt_ids, self._prefixes.unit, prefix.cache_salt, adapter)
        keys = self._prefixes.needed_keys(hashes)
        blocks = [block for key in keys if (block := self._pool.find(key)) is not None]
        before, is_refused = self._by_name.get(prefix.name), False
        if action is PrefixAction.UNPIN:
            self._unpin(prefix.name)
        elif action is PrefixAction.PIN and (before != blocks or len(blocks) < len(keys)):
            is_refused = self._num_pinned_with(prefix.name, blocks, len(keys)) > self._max_blocks
            if not is_refused and len(blocks) == len(keys):
                self._pool.share(blocks)
                self._unpin(prefix.name)
                self._by_name[prefix.name] = blocks
                self.references.update(blocks)
        num_on_disk, num_missing = 0, len(keys) - len(blocks)
        if self._moves is not None:
            if action in (PrefixAction.SAVE, PrefixAction.PIN) and not is_refused:
                self._moves.save_prefix(keys, self._pool)
            num_on_disk, num_missing = self._moves.count_stored(keys, self._pool)
        end = self._prefixes.find(0, hashes, len(hashes) * self._prefixes.blocks_per_unit[0] - 1) if hashes else None
        return PrefixReport(
            num_tokens=len(hashes) * self._prefixes.unit,
            num_blocks=len(keys),
            num_in_cache=len(blocks),
            num_on_disk=num_on_disk,
            num_missing=num_missing,
            is_pinned=bool(keys) and len(blocks) == len(keys) and self._by_name.get(prefix.name) == blocks,
            was_pinned=before is not None,
            is_refused=is_refused,
            num_pinned=self.num_blocks,
            max_pinned=self._max_blocks,
            idle_s=None if end is None else self._pool.idle_s(end, num_pins=self.references[end]),
        )

    def end(self, blocks: Set[int]) -> None:
        """End the pins that hold any of these blocks, whose contents may be wrong."""
        for name in [name for name, pinned in self._by_name.items() if not blocks.isdisjoint(pinned)]:
            logger.warning("the prefix %s is not pinned any more: the request that computed it failed", name)
            self._unpin(name)

    def _num_pinned_with(self, name: str, blocks: list[int], num_blocks: int) -> int:
        """Return how many blocks would be pinned if the name had `num_blocks`. blocks: the ones that the cache has."""
        others = self.references - Counter(self._by_name.get(name, ()))
        return len(others) + num_blocks - sum(block in others for block in blocks)

    def _unpin(self, name: str) -> None:
        blocks = self._by_name.pop(name, [])
        self._pool.free(blocks, counts_as_use=False)
        self.references -= Counter(blocks)  # which leaves no zeros

    def check(self) -> None:
        """Assert the invariants."""
        assert self.references == Counter(block for blocks in self._by_name.values() for block in blocks)
        assert self.num_blocks <= self._max_blocks
        assert all(self._pool.digest(block) is not None for block in self.references)
