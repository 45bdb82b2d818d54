"""PrefixIndex: the longest prefix of a sequence that is cached in all groups of layers, found by digests of full
prefix units. A unit is one block of a group, or several (groups.py).

Equal digests mean equal tokens, history, adapter and cache salt. A digest decides whether one client's KV is read for
another, so it is cryptographic: a collision across salts would be a disclosure. Each digest covers its parent's, hence
the whole prefix.
"""

from array import array
from collections import abc
from dataclasses import dataclass
from hashlib import blake2b

from engine.scheduling.kv.block_pool import BlockPool
from engine.scheduling.kv.groups import NO_BLOCK, KVGroup, prefix_unit

_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class PrefixMatch:
    """A cached prefix: a block table per KV group, with NO_BLOCK for unneeded blocks. No reference is counted yet."""

    num_tokens: int
    tables: list[list[int]]
    num_units: int
    num_units_of_first_group: int  # cached in group 0 alone: where they end, another sequence diverged from this one


class PrefixIndex:
    """Finds cached blocks by digest. Each KV group stores the same tokens in blocks of its own."""

    def __init__(self, groups: tuple[KVGroup, ...], pools: abc.Sequence[BlockPool]) -> None:
        """pools: the block pool of each group."""
        self._groups = groups
        self._pools = pools
        self._unit = prefix_unit(groups)
        self.blocks_per_unit = [self._unit // group.block_size for group in groups]
        self._suffixes = [
            [group_key(index, b"", part) for part in range(parts)] for index, parts in enumerate(self.blocks_per_unit)
        ]

    def longest_match(self, hashes: abc.Sequence[bytes]) -> PrefixMatch:
        """Return the longest prefix of the units with these digests for which all groups have the blocks they need."""
        num_units_of_first_group = self._longest_in_group(0, hashes)
        num_units = self._longest_in_all(hashes[:num_units_of_first_group])
        num_tokens = num_units * self._unit
        tables = [
            [NO_BLOCK] * (first := min(group.first_needed_entry(num_tokens), num_units * parts))
            + [self._block(index, hashes, entry) for entry in range(first, num_units * parts)]
            for index, (group, parts) in enumerate(zip(self._groups, self.blocks_per_unit, strict=True))
        ]
        return PrefixMatch(num_tokens, tables, num_units, num_units_of_first_group)

    def find(self, index: int, hashes: abc.Sequence[bytes], entry: int) -> int | None:
        """Return the block, in use or free, that group `index` needs as this entry of a table; None if it is not
        cached. hashes: the digests of a sequence's units."""
        return self._pools[index].find(self.key(index, hashes, entry))

    def key(self, index: int, hashes: abc.Sequence[bytes], entry: int) -> bytes:
        """Return the key under which the block of an entry of a group's table is registered in its pool."""
        suffixes = self._suffixes[index]
        return hashes[entry // len(suffixes)] + suffixes[entry % len(suffixes)]

    def _longest_in_all(self, hashes: abc.Sequence[bytes]) -> int:
        """Return the number of units of the longest prefix that all groups have; each group can only lower it."""
        num_units, num_agreeing, index = len(hashes), 0, 0
        while num_agreeing < len(self._groups):
            longest = self._longest_in_group(index, hashes[:num_units])
            num_agreeing = num_agreeing + 1 if longest == num_units else 1
            num_units = longest
            index = (index + 1) % len(self._groups)
        return num_units

    def _longest_in_group(self, index: int, hashes: abc.Sequence[bytes]) -> int:
        group, parts = self._groups[index], self.blocks_per_unit[index]
        if group.is_full_attention:
            entries = range(len(hashes) * parts)
            missing = (entry for entry in entries if self.find(index, hashes, entry) is None)
            return next(missing, len(entries)) // parts
        end = entry = len(hashes) * parts
        while entry > group.first_needed_entry(end * group.block_size):
            entry -= 1
            if self.find(index, hashes, entry) is None:
                end = entry = entry // parts * parts  # no longer prefix can do without this block
        return end // parts

    def _block(self, index: int, hashes: abc.Sequence[bytes], entry: int) -> int:
        block = self.find(index, hashes, entry)
        assert block is not None
        return block


def group_key(group: int, digest: bytes, part: int = 0) -> bytes:
    """Return the key under which a group's block is registered in its pool. digest: of the block's prefix unit. part:
    the block's number in the unit."""
    return digest + part.to_bytes(1) + group.to_bytes(1)


def root_digest(cache_salt: str, adapter: bytes | None = None) -> bytes:
    """Return the parent digest of a sequence's first unit.

    adapter: the digest of the adapter's contents, not of its name, so that KV computed with one version of an adapter
    is not found for the next. Separate hash domains (`person`) keep a salt, which a client may choose, from imitating
    another digest.
    """
    root = blake2b(cache_salt.encode(), digest_size=_DIGEST_BYTES, person=b"salt").digest()
    if adapter is None:
        return root
    return blake2b(root + adapter, digest_size=_DIGEST_BYTES, person=b"adapter").digest()


def unit_digest(parent: bytes, token_ids: abc.Sequence[int]) -> bytes:
    """Return the digest of a full unit that follows the unit with digest `parent`."""
    return blake2b(parent + array("q", token_ids).tobytes(), digest_size=_DIGEST_BYTES, person=b"block").digest()
