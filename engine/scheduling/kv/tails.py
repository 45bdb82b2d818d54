"""BlockTails: copies the beginnings of blocks, where a sequence diverges from an earlier one within a prefix unit.

The prefix cache shares whole units. A sequence that continues an earlier one finds these; of the next unit it copies
the tokens that both have, instead of computing them again:

    earlier     |....state....|....state..q1|.q1 ]         q1 ends within a unit: a tail
    another     |....state....|....state..~~|~~~           ..: copied, ~: its own tokens, q2
    longer      |....state....|....state..q1|.q1 ~         the path of a label behind q1
"""

from collections import abc
from typing import NamedTuple

from engine.scheduling.kv.block_pool import BlockPool
from engine.scheduling.kv.groups import NO_BLOCK
from engine.scheduling.kv.prefixes import PrefixIndex, PrefixMatch, group_key, root_digest, unit_digest
from engine.scheduling.sequence import Sequence, SequenceStatus


class TailCopy(NamedTuple):
    """A copy of a block of a group, from and to a block of the pool."""

    group: int
    source: int
    target: int


class BlockTails:
    """Finds the blocks to copy, and registers unfinished blocks at the end of sequences.

    Copies of a plan read all their sources before they write, and come before its step writes anything; so a source may
    be evicted by the same plan. Not for recurrent states, which are known at ends of units alone.
    """

    def __init__(
        self,
        prefixes: PrefixIndex,
        pool: BlockPool,
        free_before: abc.Callable[[Sequence, int], None],
        *,
        is_enabled: bool,
    ) -> None:
        """pool: of all groups. free_before: frees a sequence's blocks that tokens from a position on do not see.
        is_enabled: else the methods do nothing."""
        self._is_enabled = is_enabled
        self._prefixes = prefixes
        self._pool = pool
        self._free_before = free_before
        self._copies: list[tuple[Sequence, TailCopy]] = []

    def register(self, sequence: Sequence) -> None:
        """Register the unfinished unit at the end of a prompt, before the sequence's blocks are freed."""
        num_tokens, unit = sequence.num_prompt, self._prefixes.unit
        if not self._is_enabled or sequence.num_computed != num_tokens or num_tokens % unit == 0:
            return
        digest = _digest(sequence, num_tokens // unit, unit)
        for index, table in enumerate(sequence.tables):
            first = num_tokens // unit * self._prefixes.blocks_per_unit[index]
            for part, block in enumerate(table[first:]):
                if block != NO_BLOCK:
                    self._pool.register(block, group_key(index, digest, part))

    def forget(self, sequence: Sequence) -> None:
        """Unregister what `register` has registered of a sequence that no other will continue."""
        num_tokens, unit = sequence.num_prompt, self._prefixes.unit
        if not self._is_enabled or num_tokens % unit == 0:
            return
        digest = _digest(sequence, num_tokens // unit, unit)
        for index, parts in enumerate(self._prefixes.blocks_per_unit):
            for part in range(parts):
                if (block := self._pool.find(group_key(index, digest, part))) is not None:
                    self._pool.unregister(block)

    def num_copied(self, sequence: Sequence, match: PrefixMatch) -> int:
        """Return how many tokens `restore` adds to a match if there are blocks for the copies."""
        return self._find(sequence, match)[0] - match.num_tokens

    def restore(self, sequence: Sequence, match: PrefixMatch) -> None:
        """Extend the tables of a sequence, which has just been admitted with a match, by copies of the next unit. The
        next step must compute tokens of the sequence."""
        end, sources = self._find(sequence, match)
        if end == match.num_tokens:
            return
        blocks = [block for _, _, block in sources]
        if self._pool.num_free - sum(map(self._pool.is_free, blocks)) < len(blocks):
            return
        is_evicted_first = sequence.service.is_evicted_first
        self._pool.share(blocks, is_evicted_first=is_evicted_first)
        targets = self._pool.allocate(len(blocks), is_evicted_first=is_evicted_first)
        self._pool.free(blocks)
        for (index, entry, source), target in zip(sources, targets, strict=True):
            table = sequence.tables[index]
            table += [NO_BLOCK] * (entry - len(table))
            table.append(target)
            self._copies.append((sequence, TailCopy(index, source, target)))
        for group, table in zip(self._prefixes.groups, sequence.tables, strict=True):
            table += [NO_BLOCK] * (group.num_entries(end) - len(table))  # of a chunk that ends here
        self._free_before(sequence, end)
        sequence.num_computed = end

    def _find(self, sequence: Sequence, match: PrefixMatch) -> tuple[int, list[tuple[int, int, int]]]:
        """Return the position up to which a sequence can have copies behind a match, and for each block to copy its
        group, its entry in the sequence's table, and the block."""
        earlier, unit = sequence.continues, self._prefixes.unit
        start, number = match.num_tokens, match.num_units
        if not self._is_enabled or earlier is None:
            return start, []
        if earlier.unit_hashes[:number][-1:] != sequence.unit_hashes[:number][-1:]:
            return start, []
        end, limit = start, min(start + unit, len(sequence.tokens) - 1, earlier.num_prompt)
        while end < limit and sequence.tokens[end] == earlier.tokens[end]:
            end += 1
        if end == start:
            return start, []
        digest = _digest(earlier, number, unit)
        sources: list[tuple[int, int, int]] = []
        for index, (group, parts) in enumerate(zip(self._prefixes.groups, self._prefixes.blocks_per_unit, strict=True)):
            for entry in range(max(number * parts, group.first_needed_entry(end)), group.num_entries(end)):
                block = self._pool.find(group_key(index, digest, entry - number * parts))
                if block is None:
                    return start, []
                sources.append((index, entry, block))
        return end, sources

    def take(self) -> list[TailCopy]:
        """Return the copies that the next step needs."""
        copies, self._copies = self._copies, []
        return [copy for sequence, copy in copies if sequence.status is SequenceStatus.RUNNING]


def _digest(sequence: Sequence, number: int, unit: int) -> bytes:
    """Return the digest of a unit of a prompt, which may be unfinished."""
    start = number * unit
    if start + unit <= sequence.num_prompt:
        return sequence.unit_hashes[number]
    request = sequence.request
    adapter = None if request.adapter is None else request.adapter.digest
    parent = sequence.unit_hashes[number - 1] if number else root_digest(request.cache_salt, adapter)
    return unit_digest(parent, sequence.tokens[start : sequence.num_prompt])
