"""StateTables: how the tables of a recurrent state grow, on a pool of their own.

Entry b holds the state after the last computed token of block b. A step goes on from the entry of the last computed
token and leaves the state after its own last token; the state at the end of a full block is a checkpoint, from which
another sequence can start, or this one after a preemption:

    tokens     |....0....|....1....|....2....|....3....|
    before     [ ]       [s]                                the state within block 1
    the step   [ ]       [s]       [c]       [s']           c: a checkpoint, if there is a state to spare
    after      [ ]       [ ]       [ ]       [s']           c is cached, and nobody's

A state may be as large as the keys and values of thousands of tokens. So a running sequence needs one and no more:
where none is free, the new state takes the place of the one that it follows. Checkpoints are taken where another
sequence is likely to need one: at the last full block of a step, and where texts part (Sequence.branch_blocks).
"""

from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf

from engine.scheduling.kv.block_pool import BlockPool
from engine.scheduling.kv.groups import NO_BLOCK, KVGroup
from engine.scheduling.sequence import Sequence


def state_before(sequence: Sequence, table: SequenceOf[int], num_tokens: int, block_size: int) -> int:
    """The block of the state that a step up to `num_tokens` goes on from; NO_BLOCK at the beginning of a text."""
    if sequence.num_computed == 0:
        return NO_BLOCK
    block = table[(sequence.num_computed - 1) // block_size]
    return table[(_num_certain(sequence, num_tokens) - 1) // block_size] if block == NO_BLOCK else block


class StateTables:
    """Allocates entries of the state group's table. A full entry is never written again; a held one is nobody else's,
    unless it is full."""

    def __init__(self, pool: BlockPool, group: KVGroup, index: int, *, takes_checkpoints: bool) -> None:
        """index: of the group, in Sequence.tables."""
        self.pool = pool
        self._size = group.block_size
        self._index = index
        self._takes_checkpoints = takes_checkpoints

    def fits(self, sequence: Sequence, num_tokens: int) -> bool:
        """Whether `grow` finds a state for each entry that a step up to `num_tokens` needs."""
        num_missing = sum(1 for _ in self._missing(sequence, num_tokens))
        return num_missing <= self.pool.num_free + self._can_replace(sequence, num_tokens)

    def grow(self, sequence: Sequence, num_tokens: int) -> None:
        """Add what a step up to `num_tokens` needs, and checkpoints within it as far as there is room."""
        table = sequence.tables[self._index]
        missing = list(self._missing(sequence, num_tokens))
        is_short = len(missing) > self.pool.num_free or not self._takes_checkpoints
        is_replacing = is_short and self._can_replace(sequence, num_tokens)
        table += [NO_BLOCK] * (self._entry(num_tokens) + 1 - len(table))
        if is_replacing:
            before = self._entry(sequence.num_computed)
            self.pool.forget(table[before])
            table[missing.pop(0)], table[before] = table[before], NO_BLOCK
        for entry in missing:
            (table[entry],) = self.pool.allocate(1)
        for num_blocks in (_num_certain(sequence, num_tokens) // self._size, *sequence.branch_blocks):
            self.take_checkpoint(sequence, num_blocks)

    def take_checkpoint(self, sequence: Sequence, num_blocks: int) -> None:
        """Let the step for which the table has grown keep the state after `num_blocks` blocks, if it passes there and
        there is room."""
        table, entry = sequence.tables[self._index], num_blocks - 1
        is_passed = self._entry(sequence.num_computed) < entry < len(table)
        if is_passed and table[entry] == NO_BLOCK and self._takes_checkpoints and self.pool.num_free:
            (table[entry],) = self.pool.allocate(1)

    def _missing(self, sequence: Sequence, num_tokens: int) -> Iterator[int]:
        """Entries without a block in which the step may end: more than one if it verifies a draft."""
        table = sequence.tables[self._index]
        for entry in range(self._entry(_num_certain(sequence, num_tokens)), self._entry(num_tokens) + 1):
            if entry >= len(table) or table[entry] == NO_BLOCK:
                yield entry

    def _can_replace(self, sequence: Sequence, num_tokens: int) -> bool:
        """Whether the block that the step goes on from can go to the first entry in which it may end."""
        table, entry = sequence.tables[self._index], self._entry(sequence.num_computed)
        first = self._entry(_num_certain(sequence, num_tokens))
        return (
            0 <= entry < first
            and (first >= len(table) or table[first] == NO_BLOCK)
            and table[entry] != NO_BLOCK
            and self.pool.references(table[entry]) == 1
        )

    def _entry(self, num_tokens: int) -> int:
        """The entry that holds the state after so many tokens; -1 at the beginning, where there is none."""
        return (num_tokens - 1) // self._size


def _num_certain(sequence: Sequence, num_tokens: int) -> int:
    """How many of the tokens a step up to `num_tokens` computes for certain: drafted ones may be rejected."""
    return min(num_tokens, len(sequence.tokens))
