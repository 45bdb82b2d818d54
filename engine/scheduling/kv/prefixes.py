"""Prefixes: what is cached of a text, over all groups of layers."""

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

from engine.scheduling.kv.block_pool import BlockPool
from engine.scheduling.kv.groups import NO_BLOCK, KVGroup


@dataclass(frozen=True, slots=True)
class Match:
    """A cached prefix: one table a group, with NO_BLOCK where the group's rule needs nothing. Nobody holds it yet."""

    num_tokens: int
    tables: list[list[int]]
    num_blocks: int
    num_blocks_alone: int  # what group 0 has of it: here others branched off, though other groups have let go of it


class Prefixes:
    """Finds blocks by digest. Equal tokens lie in another block for each group."""

    def __init__(self, groups: tuple[KVGroup, ...], pools: SequenceOf[BlockPool]) -> None:
        """pools: of each group."""
        self._groups = groups
        self._pools = pools

    def longest(self, hashes: SequenceOf[bytes]) -> Match:
        """The longest prefix of these full blocks of which every group has what it needs."""
        num_blocks_alone = self._longest_of_group(0, hashes)
        num_blocks = self._longest_of_all(hashes[:num_blocks_alone])
        num_tokens = num_blocks * self._groups[0].block_size
        tables = [
            [NO_BLOCK] * (first := min(group.first_needed(num_tokens), num_blocks))
            + [self._block(index, digest) for digest in hashes[first:num_blocks]]
            for index, group in enumerate(self._groups)
        ]
        return Match(num_tokens, tables, num_blocks, num_blocks_alone)

    def find(self, index: int, digest: bytes) -> int | None:
        """The block of group `index` that holds the prefix `digest`, held or free."""
        return self._pools[index].find(key(index, digest))

    def _longest_of_all(self, hashes: SequenceOf[bytes]) -> int:
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
        if group.keeps_all:
            missing = (n for n, digest in enumerate(hashes) if self.find(index, digest) is None)
            return next(missing, len(hashes))
        end = position = len(hashes)
        while position > group.first_needed(end * group.block_size):
            position -= 1
            if self.find(index, hashes[position]) is None:
                end = position  # nothing that reaches over this block will do
        return end

    def _block(self, index: int, digest: bytes) -> int:
        block = self.find(index, digest)
        assert block is not None
        return block


def key(group: int, digest: bytes) -> bytes:
    """What a group's block is found under in its pool."""
    return digest + group.to_bytes(2)
