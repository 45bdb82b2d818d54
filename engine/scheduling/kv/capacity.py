"""KVCapacity: computes whether free blocks and states suffice for a sequence, given the needs of other sequences."""

from collections import Counter, abc
from itertools import chain, zip_longest
from operator import itemgetter

from engine.scheduling.kv.block_pool import BlockPool
from engine.scheduling.kv.groups import NO_BLOCK, KVGroup, peak_blocks, smallest_step
from engine.scheduling.kv.prefixes import PrefixMatch
from engine.scheduling.sequence import Sequence


class KVCapacity:
    """Counts free and needed blocks and states, without changing anything.

    `without`, an argument of its methods: sequences whose blocks and states count as free, as if they were preempted.
    """

    def __init__(
        self, groups: tuple[KVGroup, ...], pools: abc.Sequence[BlockPool], pool: BlockPool, states: BlockPool
    ) -> None:
        """pools: for each KV group its pool, either `pool` (keys and values) or `states`."""
        self._groups = groups
        self._pools = pools
        self._pool = pool
        self._states = states
        self._has_states = any(group.is_state for group in groups)
        self._step = smallest_step(groups)
        self._have_different_blocks = len({group.block_size for group in groups if not group.is_state}) > 1
        # The last match whose free blocks were counted, the pool's version then, and the number.
        self._counted: tuple[PrefixMatch, int, int] | None = None

    def can_admit(
        self,
        sequence: Sequence,
        match: PrefixMatch,
        num_reserved: int,
        *,
        num_states_reserved: int = 0,
        without: abc.Collection[Sequence] = (),
    ) -> bool:
        """Whether all tokens of a waiting sequence, sharing `match`, fit into what is not reserved for other
        sequences."""
        if self._has_states:
            num_free = self._states.num_free + self._num_freed(self._states, without)
            if num_free <= num_states_reserved:
                return False
        return self.blocks_free_after(sequence, match, num_reserved, without=without) >= 0

    def blocks_free_after(
        self, sequence: Sequence, match: PrefixMatch, num_reserved: int, *, without: abc.Collection[Sequence] = ()
    ) -> int:
        """Return how many blocks would stay free if a waiting sequence, sharing `match`, got blocks for all its tokens
        and other sequences got their `num_reserved` blocks; negative if there are too few."""
        num_free = self._pool.num_free + self._num_freed(self._pool, without) - num_reserved
        return num_free - self.blocks_taken(sequence, match, without=without)

    def blocks_taken(self, sequence: Sequence, match: PrefixMatch, *, without: abc.Collection[Sequence] = ()) -> int:
        """Return how many free blocks a waiting sequence takes, including free cached blocks of `match`."""
        return peak_blocks(self._groups, len(sequence.tokens)) - self._num_in_use(match, without)

    def _num_in_use(self, match: PrefixMatch, without: abc.Collection[Sequence]) -> int:
        """Return how many blocks of a match are not free. Without `without` the number is kept: while blocks are short,
        each step asks for that of the same match."""
        version = self._pool.version
        if not without and self._counted is not None and self._counted[0] is match and self._counted[1] == version:
            return self._counted[2]
        freed = {block for other in without for block in self.blocks_of(other.tables, self._pool)}
        shared = self.blocks_of(match.tables, self._pool)
        num_in_use = sum(not self._pool.is_free(block) and block not in freed for block in shared)
        if not without:
            self._counted = match, version, num_in_use
        return num_in_use

    def blocks_needed(self, sequence: Sequence) -> int:
        """Return how many more KV blocks, not states, a running sequence needs for its tokens and draft."""
        blocks_needed, num_tokens = 0, sequence.num_with_draft
        for group, table in zip(self._groups, sequence.tables, strict=True):
            num_new_entries = group.num_entries(num_tokens) - len(table)
            if num_new_entries > 0 and not group.is_state:
                num_used = len(table) - group.first_needed_entry(sequence.num_computed)
                blocks_needed += min(num_new_entries, group.peak_blocks(num_tokens, self._step) - num_used)
        return max(0, blocks_needed)

    def blocks_used(self, sequence: Sequence) -> int:
        """Return the number of KV blocks that a running sequence holds, including shared ones."""
        tables = zip(sequence.tables, self._pools, strict=True)
        return sum([len(table) - table.count(NO_BLOCK) for table, pool in tables if pool is self._pool])

    def blocks(self, sequence: Sequence, pool: BlockPool) -> list[int]:
        return self.blocks_of(sequence.tables, pool)

    def blocks_of(self, tables: list[list[int]], pool: BlockPool) -> list[int]:
        """Return the tables' blocks that belong to `pool`, sorted by position over all groups, as `BlockPool.free`
        needs them."""
        of_pool = [table for table, its_pool in zip(tables, self._pools, strict=False) if its_pool is pool]
        if len(of_pool) == 1:
            return [block for block in of_pool[0] if block != NO_BLOCK]
        if pool is self._pool and self._have_different_blocks:
            sizes = [group.block_size for group in self._groups if not group.is_state]
            placed = [
                (entry * size, block)
                for size, table in zip(sizes, of_pool, strict=False)
                for entry, block in enumerate(table)
                if block != NO_BLOCK
            ]
            return [block for _, block in sorted(placed, key=itemgetter(0))]
        entries = chain.from_iterable(zip_longest(*of_pool, fillvalue=NO_BLOCK))
        return [block for block in entries if block != NO_BLOCK]

    def _num_freed(self, pool: BlockPool, sequences: abc.Collection[Sequence]) -> int:
        """Return how many of the pool's blocks preempting these sequences would free."""
        references = Counter(block for sequence in sequences for block in self.blocks_of(sequence.tables, pool))
        return sum(pool.references(block) == count for block, count in references.items())
