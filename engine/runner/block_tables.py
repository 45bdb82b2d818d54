"""BlockTables: the block tables of a step's sequences in host memory, in which a step writes only what has changed."""

from array import array
from collections import abc
from dataclasses import dataclass

import torch

from engine.scheduling.kv.groups import KVGroup


@dataclass(slots=True)
class _Row:
    """The written row of a sequence: entries first..end - 1 of `table`, and 0 elsewhere.

    num_kept: first entries whose blocks stay the same, until they fall out of the window, while the sequence has this
    table. They hold tokens that were computed before the row was written.
    """

    table: list[int] | None = None
    first: int = 0
    end: int = 0
    num_kept: int = 0


class BlockTables:
    """Block tables of up to `max_sequences` sequences for each KV group, at fixed addresses. Unused entries, and those
    out of the window, are 0.

    A row is kept for the next step, since most sequences have the same place in it. Then only new blocks are written,
    so that the time does not grow with the context. A sequence has another list as its table whenever blocks of
    computed tokens may have changed, after a preemption say.
    """

    def __init__(self, groups: abc.Sequence[KVGroup], max_sequences: int, max_blocks: int) -> None:
        """groups: those with keys and values. max_blocks: most entries of a table."""
        self.groups = groups
        self.max_sequences = max_sequences
        self.max_blocks = max_blocks
        self._ints = array("i", bytes(4 * len(groups) * max_sequences * max_blocks))
        self._rows = [[_Row() for _ in range(max_sequences)] for _ in groups]

    def write(self, index: int, place: int, table: list[int], num_computed: int, end: int) -> None:
        """Write the blocks of a sequence's first `end` tokens for the group `index`. num_computed: of these tokens,
        those that are in the cache for good."""
        group, row = self.groups[index], self._rows[index][place]
        size, base = group.block_size, (index * self.max_sequences + place) * self.max_blocks
        first = 0 if group.window is None else group.first_needed_entry(num_computed)
        num_entries = -(-end // size)
        assert num_entries <= min(len(table), self.max_blocks)
        if row.table is table and row.first == first and row.end == num_entries <= row.num_kept:  # as in most steps
            return
        is_same = row.table is table and row.first <= first
        changed = max(first, row.num_kept) if is_same else first
        if row.first < first:
            self._clear(base + row.first, base + first)
        if changed < num_entries:
            self._store(base + changed, array("i", table[changed:num_entries]))
        if num_entries < row.end:
            self._clear(base + num_entries, base + row.end)
        row.table, row.first, row.end, row.num_kept = table, first, num_entries, -(-num_computed // size)

    def _clear(self, start: int, end: int) -> None:
        self._store(start, array("i", bytes(4 * (end - start))))

    def _store(self, start: int, entries: "array[int]") -> None:
        self._ints[start : start + len(entries)] = entries

    def tensor(self) -> torch.Tensor:
        """Return a view of the tables, [groups, max_sequences, max_blocks] int32."""
        shape = len(self.groups), self.max_sequences, self.max_blocks
        if not self._ints:
            return torch.empty(shape, dtype=torch.int32)
        return torch.frombuffer(self._ints, dtype=torch.int32).view(shape)
