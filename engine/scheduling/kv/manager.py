"""KVManager: allocates and frees sequences' KV blocks, looks up cached prefixes, and registers full blocks."""

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable

from engine.scheduling.config import SchedulerConfig
from engine.scheduling.kv.block_events import BlockEvents
from engine.scheduling.kv.block_pool import BlockPool, EvictionTally
from engine.scheduling.kv.capacity import KVCapacity
from engine.scheduling.kv.groups import NO_BLOCK, prefix_unit, smallest_step
from engine.scheduling.kv.moves import BlockMoves, PendingMoves, WriteThrough
from engine.scheduling.kv.pins import PinnedPrefixes
from engine.scheduling.kv.prefixes import PrefixIndex, PrefixMatch, group_of_key, unit_hashes
from engine.scheduling.kv.recent_matches import RecentMatches
from engine.scheduling.kv.states import StateAllocator
from engine.scheduling.kv.tails import BlockTails
from engine.scheduling.kv.tier_options import TierOptions
from engine.scheduling.kv.tier_reads import TierReads
from engine.scheduling.sequence import Sequence


class KVManager:
    """Manages the KV blocks and recurrent states of all sequences; the only writer of Sequence.tables and
    Sequence.unit_hashes.

    One pool serves all groups with keys and values: a block holds `block_size` tokens of one group's layers. Recurrent
    states have another pool. Prefixes are hashed and cached in units of whole blocks. Invariants: a running sequence's
    tables hold exactly the blocks that its groups need from num_computed on; a block's reference count is the number of
    tables and pins with it; a block in several tables is part of a unit that is full, computed and accepted in each.
    """

    def __init__(
        self, config: SchedulerConfig, tier: TierOptions | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.evicted_blocks, self.evicted_states = EvictionTally(), EvictionTally()
        self._moves = None if tier is None else PendingMoves(tier.tier, self.evicted_blocks.add)
        self.pool = BlockPool(
            config.num_blocks, on_evicted=self.evicted_blocks.add if self._moves is None else self._moves.evict
        )
        self._writes: WriteThrough | None = None
        if tier is not None and self._moves is not None and tier.writes_through:
            self._writes = WriteThrough(self._moves)
        self.states = BlockPool(config.num_states, on_evicted=self.evicted_states.add)
        self._groups = groups = config.kv_groups
        self._unit = prefix_unit(groups)
        self.smallest_step = smallest_step(groups)
        self._enable_prefix_caching = config.enable_prefix_caching
        self._pools = [self.states if group.is_state else self.pool for group in groups]
        self.capacity = KVCapacity(groups, self._pools, self.pool, self.states)
        self._prefixes = PrefixIndex(groups, self._pools)
        self.events = BlockEvents(self._prefixes) if config.records_block_events else None
        if self.events is not None:
            self.pool.on_removed = self.states.on_removed = self.events.remove
        self._recent_matches = RecentMatches(self._prefixes, self.pool)
        self.pins = PinnedPrefixes(self._prefixes, self.pool, config.max_pinned_blocks, self._moves)
        self.tier_reads = (
            None if tier is None or self._moves is None else TierReads(tier, self._prefixes, self._moves, clock)
        )
        self._state_allocators = [
            StateAllocator(self.states, group, index, saves_checkpoints=config.enable_prefix_caching)
            for index, group in enumerate(groups)
            if group.is_state
        ]
        assert tier is None or not self._state_allocators, "recurrent states are not kept in a tier"
        assert len(self._state_allocators) <= 1, "one block of the pool of states holds all layers' states"
        # A tier would load blocks before the copies are made.
        has_tails = config.copies_blocks and self._enable_prefix_caching and tier is None and not self._state_allocators
        self.tails = BlockTails(self._prefixes, self.pool, self._free_before, is_enabled=has_tails)
        self._held: list[int] = []  # blocks of ended sequences to which a launched step writes
        # Groups that free blocks while a sequence runs: windows, chunks, and states as windows of one entry.
        self._first_keys = next((index for index, group in enumerate(groups) if not group.is_state), 0)
        self._windowed = [(index, group) for index, group in enumerate(groups) if not group.is_full_attention]

    # --- prefixes -----------------------------------------------------------------------------------------------------

    def match(self, sequence: Sequence) -> PrefixMatch:
        """Return the longest cached prefix that a waiting sequence can start from, with blocks for every group.

        The match never includes the last token, whose logits are needed. The unit hashes must be up to date, as they
        are after arrival and `commit`.
        """
        hashes = self._matchable_hashes(sequence)
        if self.tier_reads is not None and (stored := self.tier_reads.contents(sequence)):
            return self._prefixes.longest_match(hashes, stored)
        return self._recent_matches.find(sequence, hashes)

    def _matchable_hashes(self, sequence: Sequence) -> list[bytes]:
        is_looked_up = self._enable_prefix_caching and not sequence.needs_prompt_rows
        return sequence.unit_hashes[: self._num_matchable_units(sequence) if is_looked_up else 0]

    def num_uncached(self, sequence: Sequence, match: PrefixMatch | None = None) -> int:
        """Return how many tokens a waiting sequence would have to compute if it started now. match: its cached prefix,
        if known."""
        match = match or self.match(sequence)
        return sequence.num_pending - match.num_tokens - self.tails.num_copied(sequence, match)

    def num_shareable_units(
        self, waiting: Sequence, match: PrefixMatch | None, other: Sequence, *, num_computed: int
    ) -> int:
        """Return how many prefix units a waiting sequence could share with `other`, if one of them is the unit that
        `other` computes next and is not cached yet; else 0. match: the cached prefix of `waiting`; None looks up only
        that unit. num_computed: the computed tokens of `other` before the step."""
        ours, theirs = other.unit_hashes, waiting.unit_hashes
        most = min(len(ours), self._num_matchable_units(waiting))
        index = num_computed // self._unit
        if waiting.needs_prompt_rows or index >= most or ours[index] != theirs[index]:
            return 0
        if self._is_cached_at(index, waiting) if match is None else match.num_units > index:
            return 0
        return bisect_left(range(most), True, key=lambda position: ours[position] != theirs[position])

    def _is_cached_at(self, index: int, waiting: Sequence) -> bool:
        """Whether the unit at `index` of a waiting sequence may be cached: False only if there is a full-attention
        group that lacks its last block."""
        full = next((number for number, group in enumerate(self._groups) if group.is_full_attention), None)
        if full is None:
            return True
        entry = (index + 1) * self._prefixes.blocks_per_unit[full] - 1
        if self._prefixes.find(full, waiting.unit_hashes, entry) is not None:
            return True
        reads = self.tier_reads
        return reads is not None and self._prefixes.key(full, waiting.unit_hashes, entry) in reads.contents(waiting)

    def add_branch_point(self, sequence: Sequence, num_units: int) -> None:
        """Make a running sequence cache the window blocks and recurrent states that other sequences need to continue
        after its first `num_units` units."""
        if num_units not in sequence.branch_points:
            sequence.branch_points += (num_units,)
        for allocator in self._state_allocators:
            allocator.allocate_checkpoint(sequence, num_units)

    # --- a tier -------------------------------------------------------------------------------------------------------

    def start_reading(self, sequence: Sequence) -> bool:
        """Start to read the part of a waiting sequence's prefix that only a tier has; return whether the sequence must
        wait for it. Batches read nothing, since their blocks would evict clients' prefixes."""
        service = sequence.service
        if self.tier_reads is None or service.is_evicted_first or not service.stays_cached:
            return False
        return self.tier_reads.start(sequence, self._matchable_hashes(sequence))

    def take_moves(self) -> BlockMoves | None:
        """Return the blocks to save and to load before the next step; None without any."""
        return None if self._moves is None else self._moves.take()

    def unload(self, moves: BlockMoves, sequences: Iterable[Sequence]) -> None:
        """Forget blocks that could not be loaded, and read nothing again for these sequences, which must compute
        them."""
        assert self.tier_reads is not None
        for load in moves.loads:
            self.pool.unregister(load.block)
        for sequence in sequences:
            self.tier_reads.pass_over(sequence)

    # --- admission ----------------------------------------------------------------------------------------------------

    def admit(self, sequence: Sequence, match: PrefixMatch) -> None:
        """Start a waiting sequence on its cached prefix, sharing the prefix's blocks."""
        assert not sequence.tables
        assert sequence.num_computed == 0
        self._recent_matches.forget(sequence)
        for pool in (self.pool, self.states):
            pool.share(self.capacity.blocks_of(match.tables, pool), is_evicted_first=sequence.service.is_evicted_first)
        sequence.tables = match.tables
        if self.tier_reads is not None:
            self.tier_reads.restore(sequence, match, self.pool)
        if self.events is not None:
            for index, entry, _ in match.restored:
                self.events.store(sequence, index, entry)
        sequence.num_computed = match.num_tokens
        read = sequence.num_read_units
        sequence.num_read_units = match.num_units if read is None else min(read, match.num_units)
        sequence.checkpoint = None
        ends = (*sequence.prefix_ends, sequence.num_shared, sequence.num_prompt)
        branch_points = (match.num_units, match.num_units_of_first_group, *(end // self._unit for end in ends))
        sequence.branch_points = tuple(dict.fromkeys(branch_points))

    # --- allocation ---------------------------------------------------------------------------------------------------

    def is_allocated(self, sequence: Sequence, num_tokens: int) -> bool:
        """Whether a running sequence has blocks for `num_tokens` tokens. Always False with recurrent states."""
        for group, table in zip(self._groups, sequence.tables, strict=True):  # each step, for each sequence: no calls
            if len(table) * group.block_size < num_tokens:
                return False
        return not self._state_allocators

    @property
    def can_plan_ahead(self) -> bool:
        """Whether a step may be planned before the one before it is collected: a recurrent state is overwritten."""
        return not self._state_allocators

    def max_tokens_that_fit(self, sequence: Sequence, num_tokens: int, *, num_free: int) -> int:
        """Return how many of the first `num_tokens` tokens fit into `num_free` more blocks and the free states."""
        while num_tokens > sequence.num_computed and not self._can_allocate(sequence, num_tokens, num_free):
            num_tokens = max(sequence.num_computed, (num_tokens - 1) // self.smallest_step * self.smallest_step)
        return num_tokens

    def _can_allocate(self, sequence: Sequence, num_tokens: int, num_free: int) -> bool:
        return self.num_new_blocks(sequence, num_tokens) <= num_free and all(
            allocator.can_allocate(sequence, num_tokens) for allocator in self._state_allocators
        )

    def num_new_blocks(self, sequence: Sequence, num_tokens: int) -> int:
        """Return how many KV blocks `allocate` would take, not counting states."""
        return sum(
            max(0, group.num_entries(num_tokens) - len(table))
            for group, table in zip(self._groups, sequence.tables, strict=True)
            if not group.is_state
        )

    def allocate(self, sequence: Sequence, num_tokens: int) -> None:
        """Allocate blocks and states for the first `num_tokens` tokens. Check `max_tokens_that_fit` before."""
        self.allocate_blocks(sequence, num_tokens)
        for allocator in self._state_allocators:
            allocator.allocate(sequence, num_tokens)

    def allocate_blocks(self, sequence: Sequence, num_tokens: int) -> int:
        """Allocate only the KV blocks, before it is certain that a step needs them; return their number."""
        num_added = 0
        for group, table in zip(self._groups, sequence.tables, strict=True):
            num_new_blocks = group.num_entries(num_tokens) - len(table)
            if num_new_blocks > 0 and not group.is_state:
                table += self.pool.allocate(num_new_blocks, is_evicted_first=sequence.service.is_evicted_first)
                num_added += num_new_blocks
        return num_added

    def trim(self, sequence: Sequence, num_tokens: int) -> None:
        """Free the blocks after the first `num_tokens` tokens, such as blocks of rejected drafts."""
        for index, table in enumerate(sequence.tables):
            num_entries = -(-num_tokens // self._groups[index].block_size)
            if num_entries < len(table):
                self._pools[index].free([block for block in table[num_entries:] if block != NO_BLOCK])
                del table[num_entries:]

    def free(self, sequence: Sequence, *, is_saved: bool = True) -> None:
        """Free all blocks of a sequence. Registered blocks stay in the prefix cache until they are evicted. is_saved:
        save them now if the tier is written through."""
        if self._writes is not None and is_saved and sequence.tables:  # a sequence that waits has no tables
            self._writes.on_freed(sequence, self._pools)
        for pool in (self.pool, self.states):
            pool.free(self.capacity.blocks_of(sequence.tables, pool))
        sequence.tables = []
        self._recent_matches.forget(sequence)

    def hold(self, sequence: Sequence) -> None:
        """Take from a sequence, which ends, the blocks to which a launched step writes; `free_held` frees them."""
        for group, table in zip(self._groups, sequence.tables, strict=True):
            entry = (sequence.num_ahead - 1) // group.block_size
            assert entry == len(table) - 1
            self._held.append(table.pop())

    def free_held(self) -> None:
        """Free the held blocks. Call when the launched step has been collected."""
        if self._held:
            self.pool.free(self._held)
            self._held = []

    def discard(self, sequence: Sequence) -> None:
        """Free all blocks of a failed sequence, and unregister its contents so that no sequence reuses them.

        Includes blocks that the sequence freed earlier, if they are still cached, but not pinned blocks.
        """
        for index, table in enumerate(sequence.tables):
            num_hashed = len(sequence.unit_hashes) * self._prefixes.blocks_per_unit[index]
            for entry in range(min(len(table), num_hashed)):
                block = self._prefixes.find(index, sequence.unit_hashes, entry)
                is_pinned = self._pools[index] is self.pool and block in self.pins.references
                if block is not None and not is_pinned:
                    self._pools[index].unregister(block)
        self.free(sequence)

    def end_pins(self, sequence: Sequence) -> None:
        """End the pins of blocks that a failed sequence may have computed. Those that it has only read stay pinned: a
        client's faulty request must not unpin an operator's prefix."""
        if not self.pins.num_blocks:
            return
        computed = set()
        for index, table in enumerate(sequence.tables):
            parts = self._prefixes.blocks_per_unit[index]
            num_hashed = len(sequence.unit_hashes) * parts
            for entry in range((sequence.num_read_units or 0) * parts, min(len(table), num_hashed)):
                block = self._prefixes.find(index, sequence.unit_hashes, entry)
                if block is not None and table[entry] in (block, NO_BLOCK):  # NO_BLOCK: it was freed earlier
                    computed.add(block)
        self.pins.end(computed)

    def discard_in_tier(self, sequence: Sequence) -> None:
        """Remove from the tier what a failed sequence may have computed. Pinned blocks stay, as in `discard`."""
        if self.tier_reads is not None and sequence.num_admitted:
            pinned = {self.pool.digest(block) for block in self.pins.references}
            self.tier_reads.discard([key for key in self._prefixes.keys(sequence.unit_hashes) if key not in pinned])

    # --- contents -----------------------------------------------------------------------------------------------------

    def commit(self, sequence: Sequence, num_computed_before: int) -> None:
        """Update the cache after a step: register the blocks of units that became full, and free blocks that no later
        token needs or that only hold rejected tokens. num_computed_before: the sequence's num_computed before the
        step."""
        first, end = num_computed_before // self._unit, sequence.num_computed // self._unit
        if first < end and self._enable_prefix_caching:
            self.extend_hashes(sequence)
            # Units before a preemption count as written, or as found in the cache, already.
            counted = range(sequence.num_computed_at_preemption // self._unit, sequence.num_prompt // self._unit)
            for index, table in enumerate(sequence.tables):
                parts = self._prefixes.blocks_per_unit[index]
                for entry in range(first * parts, end * parts):
                    if table[entry] != NO_BLOCK:
                        key = self._prefixes.key(index, sequence.unit_hashes, entry)
                        is_new = self._pools[index].register(table[entry], key)
                        if self.events is not None and is_new:
                            self.events.store(sequence, index, entry)
                        if is_new and index == self._first_keys and entry // parts in counted:
                            sequence.num_written += self._unit // parts
                        if self._writes is not None:
                            self._writes.on_registered(sequence, self._groups[index], table[entry], key)
        if self._windowed:
            self._free_before(sequence, sequence.num_computed, num_computed_before)
        self.trim(sequence, sequence.num_ahead or sequence.num_computed)

    def _free_before(self, sequence: Sequence, position: int, start: int | None = None) -> None:
        """Free the blocks that tokens from `position` on do not see, and those from `start` on did; by default from the
        sequence's num_computed on."""
        start = sequence.num_computed if start is None else start
        for index, group in self._windowed:
            out_of_window = range(group.first_needed_entry(start), group.first_needed_entry(position))
            self._free_out_of_window(sequence, index, out_of_window)

    def _free_out_of_window(self, sequence: Sequence, index: int, out_of_window: range) -> None:
        """Free these entries' blocks, with low priority unless a prefix hit is likely to need them."""
        table, pool, is_state = sequence.tables[index], self._pools[index], self._groups[index].is_state
        positions = [position for position in reversed(out_of_window) if table[position] != NO_BLOCK]
        if positions and is_state:
            self._replace_checkpoint(sequence, index, positions[0])
        for position in positions:
            is_likely_needed = self._is_at_branch(sequence, index, position) or (is_state and position == positions[0])
            if is_likely_needed and self._writes is not None:
                self._writes.on_left_window(sequence, table[position], pool)
            pool.free([table[position]], has_low_priority=not is_likely_needed)
            table[position] = NO_BLOCK

    def _is_at_branch(self, sequence: Sequence, index: int, position: int) -> bool:
        group, parts = self._groups[index], self._prefixes.blocks_per_unit[index]
        return any(
            group.first_needed_entry(num_units * self._unit) <= position < num_units * parts
            for num_units in sequence.branch_points
        )

    def _replace_checkpoint(self, sequence: Sequence, index: int, position: int) -> None:
        """Record the latest state checkpoint, and give the previous one low priority unless it is at a branch point."""
        previous, sequence.checkpoint = sequence.checkpoint, position
        if previous is None or not self._enable_prefix_caching or self._is_at_branch(sequence, index, previous):
            return
        block = self._prefixes.find(index, sequence.unit_hashes, previous)
        if block is not None:
            self.states.demote(block)

    def adopt_hashes(self, sequence: Sequence, other: Sequence, num_tokens: int) -> None:
        """Take the digests of the first `num_tokens` tokens from a sequence with the same ones, salt and adapter."""
        sequence.unit_hashes = other.unit_hashes[: num_tokens // self._unit]

    def extend_hashes(self, sequence: Sequence) -> None:
        """Hash the sequence's newly full units; each unit is hashed only once in a sequence's life."""
        if not self._enable_prefix_caching:
            return
        hashes, tokens, request = sequence.unit_hashes, sequence.tokens, sequence.request
        if len(hashes) < len(tokens) // self._unit:
            adapter = None if request.adapter is None else request.adapter.digest
            hashes += unit_hashes(tokens, self._unit, request.cache_salt, adapter, hashes)

    def _num_matchable_units(self, sequence: Sequence) -> int:
        return (len(sequence.tokens) - 1) // self._unit

    def check(self, running: list[Sequence]) -> None:
        for sequence in running:
            assert len(sequence.tables) == len(self._groups), sequence.id
            num_hashes = len(sequence.unit_hashes)
            assert not self._enable_prefix_caching or num_hashes >= self._num_matchable_units(sequence)
            for index, table in enumerate(sequence.tables):
                self._check_table(sequence, index, table)
        self.pins.check()
        self._recent_matches.check()
        if self.events is not None:
            assert all(self._pools[group_of_key(key)].find(key) is not None for key in self.events.published)
        for pool in (self.pool, self.states):
            pool.check()
            references = Counter(
                block for sequence in running for block in self.capacity.blocks_of(sequence.tables, pool)
            )
            if pool is self.pool:
                references += self.pins.references + Counter(self._held)
            assert [references[block] for block in range(pool.num_blocks)] == [
                pool.references(block) for block in range(pool.num_blocks)
            ]

    def _check_table(self, sequence: Sequence, index: int, table: list[int]) -> None:
        group, pool = self._groups[index], self._pools[index]
        assert group.num_entries(sequence.num_computed) <= len(table), sequence.id
        assert len(table) <= max(map(group.num_entries, (sequence.num_computed, sequence.num_with_draft))), sequence.id
        blocks = [block for block in table if block != NO_BLOCK]
        assert len(set(blocks)) == len(blocks), f"{sequence.id} has a block twice"
        first = min(group.first_needed_entry(sequence.num_computed), len(table))
        last = min(first + 1, len(table)) if group.is_state else len(table)  # states behind the last are spare
        assert all(block == NO_BLOCK for block in table[:first]), f"{sequence.id} has a block that no token sees"
        assert all(block != NO_BLOCK for block in table[first:last]), f"{sequence.id} lacks a block of group {index}"
        for position, block in enumerate(table[first:], start=first):
            if block == NO_BLOCK:
                continue
            unit = position // self._prefixes.blocks_per_unit[index]
            is_full = (unit + 1) * self._unit <= sequence.num_computed
            assert is_full or pool.references(block) == 1, f"{sequence.id} shares block {block} too early"
            if (digest := pool.digest(block)) is not None:
                assert is_full, sequence.id
                assert digest == self._prefixes.key(index, sequence.unit_hashes, position), sequence.id
