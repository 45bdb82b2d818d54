"""KVManager: gives sequences their blocks and takes them back, finds cached prefixes, registers blocks as they fill."""

from bisect import bisect_left
from collections import Counter
from itertools import zip_longest

from engine.scheduling.kv.block_pool import BlockPool
from engine.scheduling.kv.groups import NO_BLOCK, KVGroup, most_blocks
from engine.scheduling.kv.hashing import block_digest, root_digest
from engine.scheduling.kv.prefixes import Match, Prefixes, key
from engine.scheduling.kv.states import StateTables
from engine.scheduling.sequence import Sequence


class KVManager:
    """The only writer of Sequence.tables and Sequence.block_hashes.

    One pool serves all groups with keys and values: a block is `block_size` tokens of one group's layers. A group of
    recurrent states has another. Invariants: a running sequence's tables hold exactly what its groups need from
    num_computed on; the count of a block equals the tables that hold it; a block with several holders is full, computed
    and accepted in each of them.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        groups: tuple[KVGroup, ...],
        *,
        num_states: int = 0,
        enable_prefix_caching: bool,
    ) -> None:
        self.pool = BlockPool(num_blocks)
        self.states = BlockPool(num_states)
        self._block_size = block_size
        self._groups = groups
        self._enable_prefix_caching = enable_prefix_caching
        self._pools = [self.states if group.is_state else self.pool for group in groups]
        self._prefixes = Prefixes(groups, self._pools)
        self._state_tables = [
            StateTables(self.states, group, index, takes_checkpoints=enable_prefix_caching)
            for index, group in enumerate(groups)
            if group.is_state
        ]
        assert len(self._state_tables) <= 1, "one block of the pool of states holds those of all layers"
        self._passing = [(index, group) for index, group in enumerate(groups) if not group.keeps_all]

    # --- prefixes -----------------------------------------------------------------------------------------------------

    def match(self, sequence: Sequence) -> Match:
        """The longest cached prefix that a waiting sequence can start with: every group has what it needs of it.

        Never covers the last token, whose logits are needed. Its hashes are there: from intake, and from `commit` if it
        ran before.
        """
        is_looked_up = self._enable_prefix_caching and not sequence.needs_prompt_rows
        return self._prefixes.longest(sequence.block_hashes[: self._num_matchable(sequence) if is_looked_up else 0])

    def agreement(self, waiting: Sequence, match: Match, running: Sequence) -> int:
        """How many blocks of its prefix a waiting sequence could have from a running one, which computes in this step
        what follows `match`; 0 if it does not."""
        ours, theirs = running.block_hashes, waiting.block_hashes
        most = min(len(ours), self._num_matchable(waiting))
        index = running.num_computed // self._block_size
        if waiting.needs_prompt_rows or not match.num_blocks <= index < most or ours[index] != theirs[index]:
            return 0
        return bisect_left(range(most), True, key=lambda position: ours[position] != theirs[position])

    def expect_branch(self, sequence: Sequence, num_blocks: int) -> None:
        """Keep what others, who wait for it, need to go on after so many blocks of a running sequence."""
        if num_blocks not in sequence.branch_blocks:
            sequence.branch_blocks += (num_blocks,)
        for tables in self._state_tables:
            tables.take_checkpoint(sequence, num_blocks)

    # --- room ---------------------------------------------------------------------------------------------------------

    def has_room(self, sequence: Sequence, match: Match, num_promised: int) -> bool:
        """Whether all tokens of a waiting sequence fit, with `match` shared, beside what was promised to others."""
        has_state = not self._state_tables or self.states.num_free > 0
        return has_state and self.num_left(sequence, match, num_promised) >= 0

    def num_left(self, sequence: Sequence, match: Match, num_promised: int) -> int:
        """Free blocks beside those that a waiting sequence needs for all its tokens, with `match` shared, and those
        that were promised to others; less than 0 if there are not enough."""
        shared = self._held(match.tables, self.pool)
        num_free = self.pool.num_free - sum(self.pool.is_free(block) for block in shared) - num_promised
        return num_free - (most_blocks(self._groups, len(sequence.tokens)) - len(shared))

    def num_missing(self, sequence: Sequence) -> int:
        """Blocks that a running sequence still needs for the tokens it knows. It has the state that it needs."""
        missing, num_tokens = 0, sequence.num_wanted
        for group, table in zip(self._groups, sequence.tables, strict=True):
            num_to_come = group.num_covering(num_tokens) - len(table)
            if num_to_come > 0 and not group.is_state:
                num_held = len(table) - group.first_needed(sequence.num_computed)
                missing += min(num_to_come, group.most_held(num_tokens, self._block_size) - num_held)
        return max(0, missing)

    def start(self, sequence: Sequence, match: Match) -> None:
        """Give a waiting sequence its cached prefix."""
        assert not sequence.tables
        assert sequence.num_computed == 0
        for pool in (self.pool, self.states):
            pool.share(self._held(match.tables, pool))
        sequence.tables = match.tables
        sequence.num_computed = match.num_tokens
        sequence.checkpoint = None
        branches = (match.num_blocks, match.num_blocks_alone, sequence.num_prompt // self._block_size)
        sequence.branch_blocks = tuple(dict.fromkeys(branches))

    def covers(self, sequence: Sequence, num_tokens: int) -> bool:
        """Whether a running sequence has all that its first `num_tokens` tokens need. A state moves with every step."""
        return not self._state_tables and min(map(len, sequence.tables)) * self._block_size >= num_tokens

    def fit(self, sequence: Sequence, num_tokens: int, *, num_free: int) -> int:
        """How many of the first `num_tokens` tokens there is room for in `num_free` blocks, and in free states."""
        while num_tokens > sequence.num_computed and not self._fits(sequence, num_tokens, num_free):
            num_tokens = max(sequence.num_computed, (num_tokens - 1) // self._block_size * self._block_size)
        return num_tokens

    def _fits(self, sequence: Sequence, num_tokens: int, num_free: int) -> bool:
        num_growing = sum(
            max(0, group.num_covering(num_tokens) - len(table))
            for group, table in zip(self._groups, sequence.tables, strict=True)
            if not group.is_state
        )
        return num_growing <= num_free and all(tables.fits(sequence, num_tokens) for tables in self._state_tables)

    def grow(self, sequence: Sequence, num_tokens: int) -> None:
        """Add the blocks and states that the first `num_tokens` tokens need; `fit` has said that there are enough."""
        self.reserve(sequence, num_tokens)
        for tables in self._state_tables:
            tables.grow(sequence, num_tokens)

    def reserve(self, sequence: Sequence, num_tokens: int) -> int:
        """Add the blocks only, before it is known whether a step will need them; returns how many."""
        num_added = 0
        for group, table in zip(self._groups, sequence.tables, strict=True):
            num_missing = group.num_covering(num_tokens) - len(table)
            if num_missing > 0 and not group.is_state:
                table += self.pool.allocate(num_missing)
                num_added += num_missing
        return num_added

    def trim(self, sequence: Sequence, num_tokens: int) -> None:
        """Give back the blocks beyond the first `num_tokens` tokens: room for drafts that came to nothing."""
        num_covering = -(-num_tokens // self._block_size)
        for table, pool in zip(sequence.tables, self._pools, strict=True):
            if num_covering < len(table):
                pool.free([block for block in table[num_covering:] if block != NO_BLOCK])
                del table[num_covering:]

    # --- contents -----------------------------------------------------------------------------------------------------

    def commit(self, sequence: Sequence, num_computed_before: int) -> None:
        """Register the blocks that were filled when num_computed rose from `num_computed_before`, and give back those
        that no later token sees, or that held only rejected ones."""
        first, end = num_computed_before // self._block_size, sequence.num_computed // self._block_size
        if first < end and self._enable_prefix_caching:
            self.extend_hashes(sequence)
            for index, table in enumerate(sequence.tables):
                for position in range(first, end):
                    if table[position] != NO_BLOCK:
                        self._pools[index].register(table[position], key(index, sequence.block_hashes[position]))
        for index, group in self._passing:
            passed = range(group.first_needed(num_computed_before), group.first_needed(sequence.num_computed))
            self._give_back(sequence, index, passed)
        self.trim(sequence, sequence.num_computed)

    def _give_back(self, sequence: Sequence, index: int, passed: range) -> None:
        """Free the blocks that no later token sees; those that a prefix hit at a likely branch needs are kept long."""
        table, pool, is_state = sequence.tables[index], self._pools[index], self._groups[index].is_state
        held = [position for position in reversed(passed) if table[position] != NO_BLOCK]
        if held and is_state:
            self._leave_checkpoint(sequence, index, held[0])
        for position in held:
            is_kept = self._is_at_branch(sequence, index, position) or (is_state and position == held[0])
            pool.free([table[position]], is_passed=not is_kept)
            table[position] = NO_BLOCK

    def _is_at_branch(self, sequence: Sequence, index: int, position: int) -> bool:
        group = self._groups[index]
        return any(
            group.first_needed(num_blocks * self._block_size) <= position < num_blocks
            for num_blocks in sequence.branch_blocks
        )

    def _leave_checkpoint(self, sequence: Sequence, index: int, position: int) -> None:
        """Of the checkpoints in a text only the last, and those at branches, are kept long."""
        last, sequence.checkpoint = sequence.checkpoint, position
        if last is None or not self._enable_prefix_caching or self._is_at_branch(sequence, index, last):
            return
        block = self._prefixes.find(index, sequence.block_hashes[last])
        if block is not None:
            self.states.demote(block)

    def free(self, sequence: Sequence) -> None:
        """Take all blocks from a sequence; registered ones stay findable until they are reused."""
        for pool in (self.pool, self.states):
            pool.free(self._held(sequence.tables, pool))
        sequence.tables = []

    def discard(self, sequence: Sequence) -> None:
        """As `free`, and forget the contents: after an error (NaN, a failed kernel) nobody may build on them.

        Also those of blocks that were given back: each is findable under its digest, or holds nothing any more.
        """
        for index, table in enumerate(sequence.tables):
            for digest in sequence.block_hashes[: len(table)]:
                block = self._prefixes.find(index, digest)
                if block is not None:
                    self._pools[index].forget(block)
        self.free(sequence)

    def extend_hashes(self, sequence: Sequence) -> None:
        """Hash the blocks of `tokens` that have become full; each block is hashed once in a sequence's life."""
        if not self._enable_prefix_caching:
            return
        size, hashes, tokens = self._block_size, sequence.block_hashes, sequence.tokens
        num_full = len(tokens) // size
        if len(hashes) == num_full:
            return
        parent = hashes[-1] if hashes else root_digest(sequence.request.cache_salt)
        for index in range(len(hashes), num_full):
            parent = block_digest(parent, tokens[index * size : (index + 1) * size])
            hashes.append(parent)

    def _num_matchable(self, sequence: Sequence) -> int:
        return (len(sequence.tokens) - 1) // self._block_size

    # --- invariants ---------------------------------------------------------------------------------------------------

    def check(self, running: list[Sequence]) -> None:
        """Assert the invariants above, given all sequences that hold blocks."""
        for sequence in running:
            assert len(sequence.tables) == len(self._groups), sequence.id
            assert not self._enable_prefix_caching or len(sequence.block_hashes) >= self._num_matchable(sequence)
            for index, table in enumerate(sequence.tables):
                self._check_table(sequence, index, table)
        for pool in (self.pool, self.states):
            pool.check()
            held = [block for sequence in running for block in self._held(sequence.tables, pool)]
            holders = Counter(held)
            assert [holders[block] for block in range(pool.num_blocks)] == [
                pool.references(block) for block in range(pool.num_blocks)
            ]

    def _check_table(self, sequence: Sequence, index: int, table: list[int]) -> None:
        group, pool = self._groups[index], self._pools[index]
        assert group.num_covering(sequence.num_computed) <= len(table), sequence.id
        assert len(table) <= max(map(group.num_covering, (sequence.num_computed, sequence.num_wanted))), sequence.id
        held = [block for block in table if block != NO_BLOCK]
        assert len(set(held)) == len(held), f"{sequence.id} holds a block twice"
        first = min(group.first_needed(sequence.num_computed), len(table))
        last = min(first + 1, len(table)) if group.is_state else len(table)  # states behind the last are spare
        assert all(block == NO_BLOCK for block in table[:first]), f"{sequence.id} holds what no token sees"
        assert all(block != NO_BLOCK for block in table[first:last]), f"{sequence.id} lacks a block of group {index}"
        for position, block in enumerate(table[first:], start=first):
            if block == NO_BLOCK:
                continue
            is_full = (position + 1) * self._block_size <= sequence.num_computed
            assert is_full or pool.references(block) == 1, f"{sequence.id} shares block {block} too early"
            known = pool.digest(block)
            assert known is None or (is_full and known == key(index, sequence.block_hashes[position])), sequence.id

    def _held(self, tables: list[list[int]], pool: BlockPool) -> list[int]:
        """Blocks of `pool`, in order of position, so that freeing them tail first is so over all groups."""
        of_pool = [table for table, its_pool in zip(tables, self._pools, strict=False) if its_pool is pool]
        if len(of_pool) == 1:
            return [block for block in of_pool[0] if block != NO_BLOCK]
        return [
            block for entries in zip_longest(*of_pool, fillvalue=NO_BLOCK) for block in entries if block != NO_BLOCK
        ]
