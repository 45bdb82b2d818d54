"""StateAllocator: allocates recurrent states, as entries of a sequence's state table, from a block pool of their own.

Entry b holds the state after the last computed token of block b. A step continues from the entry of the last computed
token, and writes the state after its own last token. The state at the end of a full block is a checkpoint, from which
another sequence can start, or this one after a preemption:

    tokens     |....0....|....1....|....2....|....3....|
    before     [ ]       [s]                                the state within block 1
    the step   [ ]       [s]       [c]       [s']           c: a checkpoint, if a state is free
    after      [ ]       [ ]       [ ]       [s']           c is cached, and no table refers to it

A state may be as large as the keys and values of thousands of tokens. So a running sequence can do with one state: if
no state is free, its new state overwrites the previous one. Checkpoints are taken where another sequence is likely to
need one: at the last full block of a step, and where sequences diverge (Sequence.branch_points).
"""

from collections import abc

from engine.scheduling.kv.block_pool import BlockPool
from engine.scheduling.kv.groups import NO_BLOCK, KVGroup
from engine.scheduling.sequence import Sequence


def source_state(table: abc.Sequence[int], start: int, num_certain: int, block_size: int) -> int:
    """Return the block of the state that a step continues from; NO_BLOCK at a sequence's beginning.

    table: the sequence's table in the state group. start: the first position that the step computes. num_certain:
    number of tokens computed after the step, even if the whole draft is rejected.
    """
    if start == 0:
        return NO_BLOCK
    block = table[(start - 1) // block_size]
    return table[(num_certain - 1) // block_size] if block == NO_BLOCK else block


class StateAllocator:
    """Allocates the entries of state tables. Full blocks' states are final; any other state is in one table only."""

    def __init__(self, pool: BlockPool, group: KVGroup, index: int, *, saves_checkpoints: bool) -> None:
        """index: the group's index in Sequence.tables."""
        self.pool = pool
        self._size = group.block_size
        self._index = index
        self._saves_checkpoints = saves_checkpoints

    def can_allocate(self, sequence: Sequence, num_tokens: int) -> bool:
        """Whether enough states are free for a step that ends with the first `num_tokens` tokens computed."""
        num_missing = sum(1 for _ in self._missing_entries(sequence, num_tokens))
        return num_missing <= self.pool.num_free + self._can_move(sequence, num_tokens)

    def allocate(self, sequence: Sequence, num_tokens: int) -> None:
        """Allocate the states for a step up to `num_tokens` tokens, and checkpoints within it while states are free."""
        table = sequence.tables[self._index]
        missing = list(self._missing_entries(sequence, num_tokens))
        is_short = len(missing) > self._num_free(sequence) or not self._saves_checkpoints
        is_moving = is_short and self._can_move(sequence, num_tokens)
        table += [NO_BLOCK] * (self._entry(num_tokens) + 1 - len(table))
        if is_moving:
            source = self._entry(sequence.num_computed)
            self.pool.unregister(table[source])
            table[missing.pop(0)], table[source] = table[source], NO_BLOCK
        for entry in missing:
            (table[entry],) = self.pool.allocate(1, is_evicted_first=sequence.service.is_evicted_first)
        for num_blocks in (_num_certain(sequence, num_tokens) // self._size, *sequence.branch_points):
            self.allocate_checkpoint(sequence, num_blocks)

    def allocate_checkpoint(self, sequence: Sequence, num_blocks: int) -> None:
        """Make the step that `allocate` has prepared save the state after `num_blocks` blocks, if the step computes
        their end and a state is free."""
        table, entry = sequence.tables[self._index], num_blocks - 1
        is_within_step = self._entry(sequence.num_computed) < entry < len(table)
        if is_within_step and table[entry] == NO_BLOCK and self._saves_checkpoints and self._num_free(sequence) > 0:
            (table[entry],) = self.pool.allocate(1, is_evicted_first=sequence.service.is_evicted_first)

    def _num_free(self, sequence: Sequence) -> int:
        """Return the number of free states that the sequence may use for checkpoints."""
        return self.pool.num_free - self.pool.num_protected(is_evicted_first=sequence.service.is_evicted_first)

    def _missing_entries(self, sequence: Sequence, num_tokens: int) -> abc.Iterator[int]:
        """Yield the entries without a block in which the step may end: several if the step verifies a draft."""
        table = sequence.tables[self._index]
        for entry in range(self._entry(_num_certain(sequence, num_tokens)), self._entry(num_tokens) + 1):
            if entry >= len(table) or table[entry] == NO_BLOCK:
                yield entry

    def _can_move(self, sequence: Sequence, num_tokens: int) -> bool:
        """Whether the block of the state that the step reads can move to the first entry in which the step may end."""
        table, entry = sequence.tables[self._index], self._entry(sequence.num_computed)
        first = self._entry(_num_certain(sequence, num_tokens))
        return (
            0 <= entry < first
            and (first >= len(table) or table[first] == NO_BLOCK)
            and table[entry] != NO_BLOCK
            and self.pool.references(table[entry]) == 1
        )

    def _entry(self, num_tokens: int) -> int:
        """Return the entry that holds the state after `num_tokens` tokens; -1 at the beginning, where there is none."""
        return (num_tokens - 1) // self._size


def _num_certain(sequence: Sequence, num_tokens: int) -> int:
    """Return how many of the first `num_tokens` tokens are sure to be kept: draft tokens may be rejected."""
    return min(num_tokens, len(sequence.tokens))
