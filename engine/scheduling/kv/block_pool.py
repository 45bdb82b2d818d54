"""BlockPool: reference counts of KV blocks, the free lists, and the index of cached blocks."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

# (block, digest of its prefix, when it became free by the clock, whether it had low priority)
OnEvicted = Callable[[int, bytes, float, bool], None]


class EvictionTally:
    """Counts evicted blocks by how long they had been free."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: dict[float, int] = {}  # by the time at which the blocks became free

    def add(self, _block: int, _digest: bytes, freed_s: float, _has_low_priority: bool) -> None:
        """Count an evicted block. Has the signature of the pool's `on_evicted` callback."""
        self._counts[freed_s] = self._counts.get(freed_s, 0) + 1

    def take(self) -> list[tuple[float, int]]:
        """Return (seconds that blocks had been free, number of these blocks), counted since the last call."""
        if not self._counts:
            return []
        counts, self._counts = self._counts, {}
        now_s = self._clock()
        return [(now_s - freed_s, count) for freed_s, count in counts.items()]


class BlockPool:
    """Reference counts and free lists of blocks, and the index of cached blocks by digest.

    States of a block:

        blank (free, no digest) --allocate--> in use (references >= 1) --register--> in use and cached
        in use --free--> blank          in use and cached --free--> cached (free, findable) --share--> in use again
        cached --allocate (evicts: the digest is unregistered)--> in use

    Invariants: a block is in one of the free lists if and only if its count is 0; a digest names at most one block and
    a block has at most one digest.

    Blocks are reused in this order: blank blocks, cached blocks of low priority, other cached blocks; each least
    recently freed first. Blocks that fall out of a window get low priority: otherwise a long sequence, which frees a
    block for each one that it takes, would evict other sequences' prefixes. So do blocks that only sequences with
    `is_evicted_first` used.
    """

    def __init__(
        self,
        num_blocks: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_evicted: OnEvicted = lambda _block, _digest, _freed_s, _has_low_priority: None,
    ) -> None:
        self.num_blocks = num_blocks
        self._clock = clock
        self._on_evicted = on_evicted
        self.on_removed: Callable[[bytes], None] | None = None  # called with each digest that leaves the index
        self._references = [0] * num_blocks
        self._digests: list[bytes | None] = [None] * num_blocks
        self._blocks_by_digest: dict[bytes, int] = {}
        # OrderedDict and not dict: taking the first key of a dict walks over the holes that earlier removals left.
        self._free_low_priority: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))  # blank blocks first
        self._free_cached: OrderedDict[int, None] = OrderedDict()
        self.num_free_cached = 0  # free blocks whose prefix can still be found, in both lists
        self._is_evicted_first = [False] * num_blocks
        self.num_shared = 0  # blocks with several references, of tables and pins
        self._freed_s = [0.0] * num_blocks  # when a table last gave up each block, by the clock
        self.version = 0  # changes when a cached block is forgotten, or becomes free or used

    @property
    def num_free(self) -> int:
        """Number of blocks that can be allocated, including free cached blocks."""
        return len(self._free_low_priority) + len(self._free_cached)

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.num_free

    def num_protected(self, *, is_evicted_first: bool) -> int:
        """Return the number of free blocks that a sequence may not take unless it runs alone: with `is_evicted_first`,
        the cached blocks of normal priority, up to half of the pool; otherwise 0."""
        return min(len(self._free_cached), self.num_blocks // 2) if is_evicted_first else 0

    @property
    def num_unprotected(self) -> int:
        """Number of free blocks that are blank or have low priority, and so are allocated first."""
        return len(self._free_low_priority)

    def is_free(self, block: int) -> bool:
        return self._references[block] == 0

    def references(self, block: int) -> int:
        return self._references[block]

    def find(self, digest: bytes) -> int | None:
        """Return the block, in use or free, that is registered under this digest; None if there is none."""
        return self._blocks_by_digest.get(digest)

    def allocate(self, num_blocks: int, *, is_evicted_first: bool = False) -> list[int]:
        """Take blocks with undefined content, evicting cached blocks as needed. The caller must have checked num_free.

        is_evicted_first: the blocks get low priority when freed, unless sequences without this flag have shared them.
        Evictions are reported to `on_evicted`; an evicted block keeps its content until the next step runs.
        """
        assert num_blocks <= self.num_free, f"{num_blocks} blocks requested, {self.num_free} free"
        blocks = []
        for _ in range(num_blocks):
            free = self._free_low_priority or self._free_cached
            block, _ = free.popitem(last=False)
            digest = self._digests[block]
            if digest is not None:
                del self._blocks_by_digest[digest]
                self._digests[block] = None
                self.num_free_cached -= 1
                self.version += 1
                self._on_evicted(block, digest, self._freed_s[block], free is self._free_low_priority)
                if self.on_removed is not None:
                    self.on_removed(digest)
            self._references[block] = 1
            self._is_evicted_first[block] = is_evicted_first
            blocks.append(block)
        return blocks

    def share(self, blocks: Iterable[int], *, is_evicted_first: bool = False) -> None:
        """Add a reference to each of these cached blocks.

        is_evicted_first: let the blocks get low priority when freed, if all their earlier users had this flag too.
        """
        for block in blocks:
            assert self._digests[block] is not None, f"block {block} is shared but has no known prefix"
            if self._references[block] == 0:
                self._remove_free(block)
                self.num_free_cached -= 1
                self.version += 1
            self._references[block] += 1
            self._is_evicted_first[block] &= is_evicted_first
            self.num_shared += self._references[block] == 2

    def free(self, blocks: list[int], *, has_low_priority: bool = False, counts_as_use: bool = True) -> None:
        """Drop one reference to each block of a table, last block first, so that the rarer tails are evicted before
        shared heads.

        has_low_priority: the blocks are unlikely to be needed again, and are evicted before other blocks.
        counts_as_use: a sequence has used them until now.
        """
        now_s = self._clock() if counts_as_use else None
        for block in reversed(blocks):
            assert self._references[block] > 0, f"block {block} is freed twice"
            self._references[block] -= 1
            if now_s is not None:
                self._freed_s[block] = now_s
            if (left := self._references[block]) > 0:
                self.num_shared -= left == 1
                continue
            if self._digests[block] is None:
                self._add_blank(block)
                continue
            is_first = has_low_priority or self._is_evicted_first[block]
            (self._free_low_priority if is_first else self._free_cached)[block] = None
            self.num_free_cached += 1
            self.version += 1

    def idle_s(self, block: int, *, num_pins: int) -> float:
        """Return the seconds since a table last had this block; 0 if one has it. num_pins: its references by pins."""
        return 0.0 if self._references[block] > num_pins else self._clock() - self._freed_s[block]

    def demote(self, block: int) -> None:
        """Give a free cached block low priority; does nothing for other blocks."""
        if block in self._free_cached:
            del self._free_cached[block]
            self._free_low_priority[block] = None

    def register(self, block: int, digest: bytes) -> bool:
        """Register a full block in use under its digest, unless another block is registered under it; return whether
        it was registered."""
        assert self._references[block] > 0, f"block {block} is registered but not in use"
        assert self._digests[block] is None, f"block {block} is registered twice"
        if digest in self._blocks_by_digest:
            return False
        self._blocks_by_digest[digest] = block
        self._digests[block] = digest
        return True

    def unregister(self, block: int) -> None:
        """Remove a block from the index, so that it gets no further hits. References to it stay valid."""
        digest = self._digests[block]
        if digest is None:
            return
        del self._blocks_by_digest[digest]
        self._digests[block] = None
        self.version += 1
        if self.on_removed is not None:
            self.on_removed(digest)
        if self._references[block] == 0:
            self._remove_free(block)
            self.num_free_cached -= 1
            self._add_blank(block)

    def digest(self, block: int) -> bytes | None:
        return self._digests[block]

    def _add_blank(self, block: int) -> None:
        self._free_low_priority[block] = None
        self._free_low_priority.move_to_end(block, last=False)

    def _remove_free(self, block: int) -> None:
        del (self._free_low_priority if block in self._free_low_priority else self._free_cached)[block]

    def check(self) -> None:
        assert all(count >= 0 for count in self._references)
        free = [*self._free_low_priority, *self._free_cached]
        assert len(set(free)) == len(free)
        assert set(free) == {b for b, count in enumerate(self._references) if count == 0}
        assert self._blocks_by_digest == {d: b for b, d in enumerate(self._digests) if d is not None}
        assert sum(d is not None for d in self._digests) == len(self._blocks_by_digest)
        is_cached = [self._digests[block] is not None for block in free]
        assert is_cached == sorted(is_cached), "a cached block would be reused before a blank one"
        assert self.num_free_cached == sum(is_cached)
        assert self.num_shared == sum(count > 1 for count in self._references)
