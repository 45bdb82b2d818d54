"""KVManager: gives sequences their blocks, finds cached prefixes, and registers blocks as they fill."""

from collections.abc import Iterable

from engine.kv.block_pool import BlockPool
from engine.kv.hashing import block_digest, root_digest
from engine.sequence import Sequence


class KVManager:
    """The only writer of Sequence.blocks and Sequence.block_hashes.

    Invariants: a running sequence's blocks cover its num_computed; the count of a block equals the tables that hold
    it; a block with several holders is full, computed and accepted in each of them.
    """

    def __init__(self, num_blocks: int, block_size: int, *, enable_prefix_caching: bool) -> None:
        self.pool = BlockPool(num_blocks)
        self._block_size = block_size
        self._enable_prefix_caching = enable_prefix_caching

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self._block_size)

    def match(self, sequence: Sequence) -> list[int]:
        """The cached blocks that a waiting sequence can start with; nobody holds them for it yet.

        Never covers the last token, whose logits are needed. Its hashes are there: from intake, and from `commit` if it
        ran before.
        """
        blocks: list[int] = []
        if not self._enable_prefix_caching or sequence.needs_prompt_rows:
            return blocks
        for index in range(self._num_matchable(sequence)):
            block = self.pool.find(sequence.block_hashes[index])
            if block is None:
                break
            blocks.append(block)
        return blocks

    def next_digest(self, sequence: Sequence) -> tuple[int, bytes] | None:
        """Index and digest of the block that a running sequence fills next, if it will be full and is not cached."""
        index = sequence.num_computed // self._block_size
        if index >= len(sequence.block_hashes) or self.pool.find(sequence.block_hashes[index]) is not None:
            return None
        return index, sequence.block_hashes[index]

    def could_share(self, sequence: Sequence, digests: Iterable[tuple[int, bytes]]) -> bool:
        """Whether one of these blocks, still being computed, is one that the waiting sequence could start with."""
        if sequence.needs_prompt_rows:
            return False
        hashes, num_matchable = sequence.block_hashes, self._num_matchable(sequence)
        return any(index < num_matchable and hashes[index] == digest for index, digest in digests)

    def num_free_without(self, matched: list[int]) -> int:
        """Free blocks that would be left if `matched` were shared."""
        return self.pool.num_free - sum(self.pool.is_free(block) for block in matched)

    def start(self, sequence: Sequence, matched: list[int]) -> None:
        """Give a waiting sequence its cached prefix."""
        assert not sequence.blocks
        assert sequence.num_computed == 0
        self.pool.share(matched)
        sequence.blocks = list(matched)
        sequence.num_computed = len(matched) * self._block_size

    def grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Add the blocks that the first `num_tokens` tokens need; False, and nothing changed, if there are too few."""
        num_missing = self.blocks_for(num_tokens) - len(sequence.blocks)
        if num_missing <= 0:
            return True
        if num_missing > self.pool.num_free:
            return False
        sequence.blocks += self.pool.allocate(num_missing)
        return True

    def commit(self, sequence: Sequence, num_computed_before: int) -> None:
        """Register the blocks that were filled when num_computed rose from `num_computed_before`."""
        first, end = num_computed_before // self._block_size, sequence.num_computed // self._block_size
        if first == end or not self._enable_prefix_caching:
            return
        self.extend_hashes(sequence)
        for index in range(first, end):
            self.pool.register(sequence.blocks[index], sequence.block_hashes[index])

    def free(self, sequence: Sequence) -> None:
        """Take all blocks from a sequence; registered ones stay findable until they are reused."""
        self.pool.free(sequence.blocks)
        sequence.blocks = []

    def discard(self, sequence: Sequence) -> None:
        """As `free`, and forget the contents: after an error (NaN, a failed kernel) nobody may build on them."""
        for block in sequence.blocks:
            self.pool.forget(block)
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

    def check(self, running: list[Sequence]) -> None:
        """Assert the invariants above, given all sequences that hold blocks."""
        self.pool.check()
        holders = [0] * self.pool.num_blocks
        for sequence in running:
            assert len(sequence.blocks) >= self.blocks_for(sequence.num_computed), sequence.id
            assert len(set(sequence.blocks)) == len(sequence.blocks), sequence.id
            assert not self._enable_prefix_caching or len(sequence.block_hashes) >= self._num_matchable(sequence)
            for index, block in enumerate(sequence.blocks):
                holders[block] += 1
                is_full = (index + 1) * self._block_size <= sequence.num_computed
                assert is_full or self.pool.references(block) == 1, f"{sequence.id} shares block {block} too early"
                digest = self.pool.digest(block)
                assert digest is None or (is_full and sequence.block_hashes[index] == digest), sequence.id
        assert holders == [self.pool.references(block) for block in range(self.pool.num_blocks)]
