"""PrefixIndex: the longest prefix of a sequence that is cached in all groups of layers, found by digests of full
blocks.

Equal digests mean equal tokens, history, adapter and cache salt. A digest decides whether one client's KV is read for
another, so it is cryptographic: a collision across salts would be a disclosure. Each digest covers its parent's, hence
the whole prefix.
"""

from array import array
from collections import abc
from dataclasses import dataclass
from hashlib import blake2b

from engine.scheduling.kv.block_pool import BlockPool
from engine.scheduling.kv.groups import NO_BLOCK, KVGroup

_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class PrefixMatch:
    """A cached prefix: a block table per KV group, with NO_BLOCK for unneeded blocks. No reference is counted yet."""

    num_tokens: int
    tables: list[list[int]]
    num_blocks: int
    num_blocks_of_first_group: int  # cached in group 0 alone: where they end, another sequence diverged from this one


class PrefixIndex:
    """Finds cached blocks by digest. Each KV group stores the same tokens in a block of its own."""

    def __init__(self, groups: tuple[KVGroup, ...], pools: abc.Sequence[BlockPool]) -> None:
        """pools: the block pool of each group."""
        self._groups = groups
        self._pools = pools

    def longest_match(self, hashes: abc.Sequence[bytes]) -> PrefixMatch:
        """Return the longest prefix of the blocks with these digests for which all groups have the blocks they need."""
        num_blocks_of_first_group = self._longest_in_group(0, hashes)
        num_blocks = self._longest_in_all(hashes[:num_blocks_of_first_group])
        num_tokens = num_blocks * self._groups[0].block_size
        tables = [
            [NO_BLOCK] * (first := min(group.first_needed_entry(num_tokens), num_blocks))
            + [self._block(index, digest) for digest in hashes[first:num_blocks]]
            for index, group in enumerate(self._groups)
        ]
        return PrefixMatch(num_tokens, tables, num_blocks, num_blocks_of_first_group)

    def find(self, index: int, digest: bytes) -> int | None:
        """Return the block of group `index` with this digest, in use or free; None if it is not cached."""
        return self._pools[index].find(group_key(index, digest))

    def _longest_in_all(self, hashes: abc.Sequence[bytes]) -> int:
        """Return the number of blocks of the longest prefix that all groups have; each group can only lower it."""
        num_blocks, num_agreeing, index = len(hashes), 0, 0
        while num_agreeing < len(self._groups):
            longest = self._longest_in_group(index, hashes[:num_blocks])
            num_agreeing = num_agreeing + 1 if longest == num_blocks else 1
            num_blocks = longest
            index = (index + 1) % len(self._groups)
        return num_blocks

    def _longest_in_group(self, index: int, hashes: abc.Sequence[bytes]) -> int:
        group = self._groups[index]
        if group.is_full_attention:
            missing = (n for n, digest in enumerate(hashes) if self.find(index, digest) is None)
            return next(missing, len(hashes))
        end = position = len(hashes)
        while position > group.first_needed_entry(end * group.block_size):
            position -= 1
            if self.find(index, hashes[position]) is None:
                end = position  # no longer prefix can do without this block
        return end

    def _block(self, index: int, digest: bytes) -> int:
        block = self.find(index, digest)
        assert block is not None
        return block


def group_key(group: int, digest: bytes) -> bytes:
    """Return the key under which a group's block is registered in its pool."""
    return digest + group.to_bytes(2)


def root_digest(cache_salt: str, adapter: bytes | None = None) -> bytes:
    """Return the parent digest of a sequence's first block.

    adapter: the digest of the adapter's contents, not of its name, so that KV computed with one version of an adapter
    is not found for the next. Separate hash domains (`person`) keep a salt, which a client may choose, from imitating
    another digest.
    """
    root = blake2b(cache_salt.encode(), digest_size=_DIGEST_BYTES, person=b"salt").digest()
    if adapter is None:
        return root
    return blake2b(root + adapter, digest_size=_DIGEST_BYTES, person=b"adapter").digest()


def block_digest(parent: bytes, token_ids: abc.Sequence[int]) -> bytes:
    """Return the digest of a full block that follows the block with digest `parent`."""
    return blake2b(parent + array("q", token_ids).tobytes(), digest_size=_DIGEST_BYTES, person=b"block").digest()
