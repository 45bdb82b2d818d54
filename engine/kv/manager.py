"""KVManager: gives sequences their blocks and takes them back, finds cached prefixes, registers blocks as they fill."""

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

from engine.kv.block_pool import BlockPool
from engine.kv.groups import NO_BLOCK, KVGroup, most_blocks
from engine.kv.hashing import block_digest, root_digest
from engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Match:
    """A cached prefix: one table a group, with NO_BLOCK where the group's rule needs nothing. Nobody holds it yet."""

    num_tokens: int
    tables: list[list[int]]
    num_blocks_alone: int  # what group 0 has of it: here others branched off, though other groups have let go of it

    @property
    def blocks(self) -> list[int]:
        return _held(self.tables)


class KVManager:
    """The only writer of Sequence.tables and Sequence.block_hashes.

    One pool serves all groups: a block is `block_size` tokens of one group's layers. Invariants: a running sequence's
    tables hold exactly what its groups need from num_computed on; the count of a block equals the tables that hold it;
    a block with several holders is full, computed and accepted in each of them.
    """

    def __init__(
        self, num_blocks: int, block_size: int, groups: tuple[KVGroup, ...], *, enable_prefix_caching: bool
    ) -> None:
        self.pool = BlockPool(num_blocks)
        self._block_size = block_size
        self._groups = groups
        self._enable_prefix_caching = enable_prefix_caching

    # --- prefixes -----------------------------------------------------------------------------------------------------

    def match(self, sequence: Sequence) -> Match:
        """The longest cached prefix that a waiting sequence can start with: every group has what it needs of it.

        Never covers the last token, whose logits are needed. Its hashes are there: from intake, and from `commit` if it
        ran before.
        """
        num_blocks = num_blocks_alone = 0
        if self._enable_prefix_caching and not sequence.needs_prompt_rows:
            hashes = sequence.block_hashes[: self._num_matchable(sequence)]
            num_blocks_alone = self._longest_of_group(0, hashes)
            num_blocks = self._longest_match(hashes[:num_blocks_alone])
        num_tokens = num_blocks * self._block_size
        tables = [
            [NO_BLOCK] * (first := min(group.first_needed(num_tokens), num_blocks))
            + [self._block(index, digest) for digest in sequence.block_hashes[first:num_blocks]]
            for index, group in enumerate(self._groups)
        ]
        return Match(num_tokens, tables, num_blocks_alone)

    def _longest_match(self, hashes: SequenceOf[bytes]) -> int:
        """The largest number of blocks that suits every group, found from above: a group's answer only lowers it."""
        num_blocks, num_agreeing, index = len(hashes), 0, 0
        while num_agreeing < len(self._groups):
            longest = self._longest_of_group(index, hashes[:num_blocks])
            num_agreeing = num_agreeing + 1 if longest == num_blocks else 1
            num_blocks = longest
            index = (index + 1) % len(self._groups)
        return num_blocks

    def _longest_of_group(self, index: int, hashes: SequenceOf[bytes]) -> int:
        group = self._groups[index]
        if group.window is None:
            missing = (n for n, digest in enumerate(hashes) if self.pool.find(_key(index, digest)) is None)
            return next(missing, len(hashes))
        end = position = len(hashes)
        while position > group.first_needed(end * self._block_size):
            position -= 1
            if self.pool.find(_key(index, hashes[position])) is None:
                end = position  # nothing that reaches over this block will do
        return end

    def _block(self, index: int, digest: bytes) -> int:
        block = self.pool.find(_key(index, digest))
        assert block is not None
        return block

    def next_digest(self, sequence: Sequence) -> tuple[int, bytes] | None:
        """Index and digest of the block that a running sequence fills next, if it will be full and is not cached."""
        index = sequence.num_computed // self._block_size
        if index >= len(sequence.block_hashes) or self.pool.find(_key(0, sequence.block_hashes[index])) is not None:
            return None
        return index, sequence.block_hashes[index]

    def could_share(self, sequence: Sequence, digests: Iterable[tuple[int, bytes]]) -> bool:
        """Whether one of these blocks, still being computed, is one that the waiting sequence could start with."""
        if sequence.needs_prompt_rows:
            return False
        hashes, num_matchable = sequence.block_hashes, self._num_matchable(sequence)
        return any(index < num_matchable and hashes[index] == digest for index, digest in digests)

    # --- room ---------------------------------------------------------------------------------------------------------

    def num_free_without(self, match: Match) -> int:
        """Free blocks that would be left if `match` were shared."""
        return self.pool.num_free - sum(self.pool.is_free(block) for block in match.blocks)

    def num_needed(self, sequence: Sequence, match: Match) -> int:
        """Blocks that suffice for all tokens of a waiting sequence, beside those of `match`."""
        return most_blocks(self._groups, len(sequence.tokens)) - len(match.blocks)

    def num_missing(self, sequence: Sequence) -> int:
        """Blocks that a running sequence still needs for the tokens it knows."""
        missing, num_tokens = 0, sequence.num_wanted
        for group, table in zip(self._groups, sequence.tables, strict=True):
            num_to_come = group.num_covering(num_tokens) - len(table)
            if num_to_come > 0:
                num_held = len(table) - group.first_needed(sequence.num_computed)
                missing += min(num_to_come, group.most_held(num_tokens, self._block_size) - num_held)
        return max(0, missing)

    def start(self, sequence: Sequence, match: Match) -> None:
        """Give a waiting sequence its cached prefix."""
        assert not sequence.tables
        assert sequence.num_computed == 0
        self.pool.share(match.blocks)
        sequence.tables = match.tables
        sequence.num_computed = match.num_tokens
        sequence.branch_blocks = (match.num_blocks_alone, sequence.num_prompt // self._block_size)

    def fit(self, sequence: Sequence, num_tokens: int) -> int:
        """How many of the first `num_tokens` tokens there is room for."""
        while self._num_growing(sequence, num_tokens) > self.pool.num_free:
            num_tokens = max(sequence.num_computed, (num_tokens - 1) // self._block_size * self._block_size)
        return num_tokens

    def grow(self, sequence: Sequence, num_tokens: int) -> None:
        """Add the blocks that the first `num_tokens` tokens need; `fit` has said that there are enough."""
        for group, table in zip(self._groups, sequence.tables, strict=True):
            num_missing = group.num_covering(num_tokens) - len(table)
            if num_missing > 0:
                table += self.pool.allocate(num_missing)

    def _num_growing(self, sequence: Sequence, num_tokens: int) -> int:
        return sum(
            max(0, group.num_covering(num_tokens) - len(table))
            for group, table in zip(self._groups, sequence.tables, strict=True)
        )

    # --- contents -----------------------------------------------------------------------------------------------------

    def commit(self, sequence: Sequence, num_computed_before: int) -> None:
        """Register the blocks that were filled when num_computed rose from `num_computed_before`, and give back those
        that no later token sees."""
        first, end = num_computed_before // self._block_size, sequence.num_computed // self._block_size
        if first < end and self._enable_prefix_caching:
            self.extend_hashes(sequence)
            for index, table in enumerate(sequence.tables):
                for position in range(first, end):
                    self.pool.register(table[position], _key(index, sequence.block_hashes[position]))
        for group, table in zip(self._groups, sequence.tables, strict=True):
            if group.window is not None:
                self._give_back(sequence, group, table)

    def _give_back(self, sequence: Sequence, group: KVGroup, table: list[int]) -> None:
        """Free the blocks that no later token sees; those that a prefix hit at a likely branch needs are kept long."""
        position = group.first_needed(sequence.num_computed)
        while position > 0 and table[position - 1] != NO_BLOCK:
            position -= 1
            is_at_branch = any(
                group.first_needed(num_blocks * self._block_size) <= position < num_blocks
                for num_blocks in sequence.branch_blocks
            )
            self.pool.free([table[position]], is_passed=not is_at_branch)
            table[position] = NO_BLOCK

    def free(self, sequence: Sequence) -> None:
        """Take all blocks from a sequence; registered ones stay findable until they are reused."""
        self.pool.free(_held(sequence.tables))
        sequence.tables = []

    def discard(self, sequence: Sequence) -> None:
        """As `free`, and forget the contents: after an error (NaN, a failed kernel) nobody may build on them.

        Also those of blocks that were given back: each is findable under its digest, or holds nothing any more.
        """
        for index, table in enumerate(sequence.tables):
            for digest in sequence.block_hashes[: len(table)]:
                block = self.pool.find(_key(index, digest))
                if block is not None:
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

    # --- invariants ---------------------------------------------------------------------------------------------------

    def check(self, running: list[Sequence]) -> None:
        """Assert the invariants above, given all sequences that hold blocks."""
        self.pool.check()
        holders = [0] * self.pool.num_blocks
        for sequence in running:
            assert len(sequence.tables) == len(self._groups), sequence.id
            assert not self._enable_prefix_caching or len(sequence.block_hashes) >= self._num_matchable(sequence)
            held = _held(sequence.tables)
            assert len(set(held)) == len(held), sequence.id
            for block in held:
                holders[block] += 1
            for index, table in enumerate(sequence.tables):
                self._check_table(sequence, index, table)
        assert holders == [self.pool.references(block) for block in range(self.pool.num_blocks)]

    def _check_table(self, sequence: Sequence, index: int, table: list[int]) -> None:
        group = self._groups[index]
        num_tokens = sequence.num_prompt + sequence.request.sampling.max_tokens
        assert group.num_covering(sequence.num_computed) <= len(table) <= group.num_covering(num_tokens), sequence.id
        first = min(group.first_needed(sequence.num_computed), len(table))
        assert all(block == NO_BLOCK for block in table[:first]), f"{sequence.id} holds what no token sees"
        for position, block in enumerate(table[first:], start=first):
            assert block != NO_BLOCK, f"{sequence.id} lacks block {position} of group {index}"
            is_full = (position + 1) * self._block_size <= sequence.num_computed
            assert is_full or self.pool.references(block) == 1, f"{sequence.id} shares block {block} too early"
            key = self.pool.digest(block)
            assert key is None or (is_full and key == _key(index, sequence.block_hashes[position])), sequence.id


def _key(group: int, digest: bytes) -> bytes:
    """What a group's block is found under: equal tokens lie in another block for each group."""
    return digest + group.to_bytes(2)


def _held(tables: list[list[int]]) -> list[int]:
    """All blocks of a sequence in order of position, so that freeing them tail first is so over all groups."""
    if len(tables) == 1:
        return [block for block in tables[0] if block != NO_BLOCK]
    width = max(map(len, tables), default=0)
    return [
        table[position]
        for position in range(width)
        for table in tables
        if position < len(table) and table[position] != NO_BLOCK
    ]
