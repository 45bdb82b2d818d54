"""KVCapacity: whether blocks and states suffice for a sequence, besides what other sequences have and need."""

from collections import Counter, abc
from itertools import zip_longest

from engine.scheduling.kv.block_pool import BlockPool
from engine.scheduling.kv.groups import NO_BLOCK, KVGroup, peak_blocks
from engine.scheduling.kv.prefixes import PrefixMatch
from engine.scheduling.sequence import Sequence


class KVCapacity:
    """Counts free and needed blocks and states; changes nothing.

    `without`: running sequences whose blocks and states count as free, because they would be preempted.
    """

    def __init__(
        self, groups: tuple[KVGroup, ...], pools: abc.Sequence[BlockPool], pool: BlockPool, states: BlockPool
    ) -> None:
        """pools: the pool of each group, either `pool` or `states`."""
        self._groups = groups
        self._pools = pools
        self._pool = pool
        self._states = states
        self._has_states = any(group.is_state for group in groups)

    def can_admit(
        self,
        sequence: Sequence,
        match: PrefixMatch,
        num_reserved: int,
        *,
        num_states_reserved: int = 0,
        without: abc.Collection[Sequence] = (),
    ) -> bool:
        """Whether all tokens of a waiting sequence fit, with `match` shared, besides what is reserved for others."""
        if self._has_states:
            num_free = self._states.num_free + self._num_freed(self._states, without)
            if num_free <= num_states_reserved:
                return False
        return self.blocks_free_after(sequence, match, num_reserved, without=without) >= 0

    def blocks_free_after(
        self, sequence: Sequence, match: PrefixMatch, num_reserved: int, *, without: abc.Collection[Sequence] = ()
    ) -> int:
        """Return the number of free blocks that remain when a waiting sequence has the blocks that all its tokens need,
        with `match` shared, and others have the blocks that are reserved for them; negative if there are not enough."""
        num_free = self._pool.num_free + self._num_freed(self._pool, without) - num_reserved
        return num_free - self.blocks_taken(sequence, match, without=without)

    def blocks_taken(self, sequence: Sequence, match: PrefixMatch, *, without: abc.Collection[Sequence] = ()) -> int:
        """Return how many free blocks a waiting sequence takes for all its tokens, unused cached ones included."""
        shared = blocks_of(match.tables, self._pools, self._pool)
        freed = {block for other in without for block in blocks_of(other.tables, self._pools, self._pool)}
        num_unused = sum(self._pool.is_free(block) or block in freed for block in shared)
        return num_unused + peak_blocks(self._groups, len(sequence.tokens)) - len(shared)

    def blocks_needed(self, sequence: Sequence) -> int:
        """Return how many blocks a running sequence still needs for its known tokens. It has its state."""
        blocks_needed, num_tokens = 0, sequence.num_with_draft
        for group, table in zip(self._groups, sequence.tables, strict=True):
            num_new_entries = group.num_entries(num_tokens) - len(table)
            if num_new_entries > 0 and not group.is_state:
                num_used = len(table) - group.first_needed_entry(sequence.num_computed)
                blocks_needed += min(num_new_entries, group.peak_blocks(num_tokens, group.block_size) - num_used)
        return max(0, blocks_needed)

    def blocks_used(self, sequence: Sequence) -> int:
        """Return the number of blocks that a running sequence uses, shared ones included."""
        tables = zip(sequence.tables, self._pools, strict=True)
        return sum([len(table) - table.count(NO_BLOCK) for table, pool in tables if pool is self._pool])

    def blocks(self, sequence: Sequence, pool: BlockPool) -> list[int]:
        return blocks_of(sequence.tables, self._pools, pool)

    def _num_freed(self, pool: BlockPool, sequences: abc.Collection[Sequence]) -> int:
        """Return the number of blocks that become free if these sequences are preempted."""
        references = Counter(block for sequence in sequences for block in blocks_of(sequence.tables, self._pools, pool))
        return sum(pool.references(block) == count for block, count in references.items())


def blocks_of(tables: list[list[int]], pools: abc.Sequence[BlockPool], pool: BlockPool) -> list[int]:
    """Return the blocks of `pool`, in order of position over all groups, so that they are freed tail first. pools: the
    pool of each table."""
    of_pool = [table for table, its_pool in zip(tables, pools, strict=False) if its_pool is pool]
    if len(of_pool) == 1:
        return [block for block in of_pool[0] if block != NO_BLOCK]
    return [block for entries in zip_longest(*of_pool, fillvalue=NO_BLOCK) for block in entries if block != NO_BLOCK]
