"""BlockPool: who holds each KV block, which blocks are free, and which free ones still hold a reusable prefix."""

from collections import OrderedDict
from collections.abc import Iterable


class BlockPool:
    """Reference counts, a free list and a table from digest to block.

    States of a block:

        blank (free, no digest) --allocate--> held (references >= 1) --register--> held and cached
        held --free--> blank                  held and cached --free--> cached (free, findable) --share--> held again
        cached --allocate (evicts: the digest is forgotten)--> held

    Invariants: a block is in one of the free lists if and only if its count is 0; a digest names at most one block and
    a block has at most one digest. Order of reuse: blanks, then cached blocks that a window has passed, then the other
    cached blocks; in each the least recently freed first. So a long text, which gives back a block for every one it
    takes, does not push out the prefixes of others.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._references = [0] * num_blocks
        self._digests: list[bytes | None] = [None] * num_blocks
        self._blocks_by_digest: dict[bytes, int] = {}
        # OrderedDict and not dict: taking the first key of a dict walks over the holes that earlier removals left.
        self._first_free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))  # blank, or passed
        self._last_free: OrderedDict[int, None] = OrderedDict()  # cached
        self._num_free_cached = 0

    @property
    def num_free(self) -> int:
        """Blocks that can be allocated, cached ones included."""
        return len(self._first_free) + len(self._last_free)

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.num_free

    @property
    def num_free_cached(self) -> int:
        """Free blocks that still hold a findable prefix."""
        return self._num_free_cached

    def is_free(self, block: int) -> bool:
        return self._references[block] == 0

    def references(self, block: int) -> int:
        return self._references[block]

    def find(self, digest: bytes) -> int | None:
        """The block that holds the prefix `digest`, held or free."""
        return self._blocks_by_digest.get(digest)

    def allocate(self, num_blocks: int) -> list[int]:
        """Take blocks with undefined content, evicting cached prefixes as needed. The caller has checked num_free."""
        assert num_blocks <= self.num_free, f"{num_blocks} blocks asked for, {self.num_free} free"
        blocks = []
        for _ in range(num_blocks):
            block, _ = (self._first_free or self._last_free).popitem(last=False)
            digest = self._digests[block]
            if digest is not None:
                del self._blocks_by_digest[digest]
                self._digests[block] = None
                self._num_free_cached -= 1
            self._references[block] = 1
            blocks.append(block)
        return blocks

    def share(self, blocks: Iterable[int]) -> None:
        """Add one holder to each of these cached blocks."""
        for block in blocks:
            assert self._digests[block] is not None, f"block {block} is shared but holds no known prefix"
            if self._references[block] == 0:
                self._remove_free(block)
                self._num_free_cached -= 1
            self._references[block] += 1

    def free(self, blocks: list[int], *, is_passed: bool = False) -> None:
        """Drop one holder of each block of a table, tail first: a shared head then outlives its rarer tails.

        is_passed: the holder runs on and sees these no more, nor will who continues its text: they are reused early.
        """
        for block in reversed(blocks):
            assert self._references[block] > 0, f"block {block} is freed twice"
            self._references[block] -= 1
            if self._references[block] > 0:
                continue
            if self._digests[block] is None:
                self._add_blank(block)
                continue
            (self._first_free if is_passed else self._last_free)[block] = None
            self._num_free_cached += 1

    def demote(self, block: int) -> None:
        """Let a free cached block be reused early, as one that a window has passed."""
        if block in self._last_free:
            del self._last_free[block]
            self._first_free[block] = None

    def register(self, block: int, digest: bytes) -> None:
        """Make a held, full block findable. If another block has this content already, that one stays the findable."""
        assert self._references[block] > 0, f"block {block} is registered but not held"
        assert self._digests[block] is None, f"block {block} is registered twice"
        if digest not in self._blocks_by_digest:
            self._blocks_by_digest[digest] = block
            self._digests[block] = digest

    def forget(self, block: int) -> None:
        """Make a block unfindable; its holders keep it."""
        digest = self._digests[block]
        if digest is None:
            return
        del self._blocks_by_digest[digest]
        self._digests[block] = None
        if self._references[block] == 0:
            self._remove_free(block)
            self._num_free_cached -= 1
            self._add_blank(block)

    def digest(self, block: int) -> bytes | None:
        return self._digests[block]

    def _add_blank(self, block: int) -> None:
        self._first_free[block] = None
        self._first_free.move_to_end(block, last=False)

    def _remove_free(self, block: int) -> None:
        del (self._first_free if block in self._first_free else self._last_free)[block]

    def check(self) -> None:
        """Assert the invariants above."""
        assert all(count >= 0 for count in self._references)
        free = [*self._first_free, *self._last_free]
        assert len(set(free)) == len(free)
        assert set(free) == {b for b, count in enumerate(self._references) if count == 0}
        assert self._blocks_by_digest == {d: b for b, d in enumerate(self._digests) if d is not None}
        assert sum(d is not None for d in self._digests) == len(self._blocks_by_digest)
        is_cached = [self._digests[block] is not None for block in free]
        assert is_cached == sorted(is_cached), "a cached block would be reused before a blank one"
        assert self._num_free_cached == sum(is_cached)
