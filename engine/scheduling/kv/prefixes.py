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
from typing import NamedTuple

from engine.scheduling.kv.block_pool import BlockPool
from engine.scheduling.kv.groups import NO_BLOCK, KVGroup, prefix_unit

_DIGEST_BYTES = 16


class RestoredBlock(NamedTuple):
    """A block of a prefix whose content comes from a tier: the entry of a group's table that needs it, and its key."""

    group: int
    entry: int
    key: bytes


@dataclass(frozen=True, slots=True)
class PrefixMatch:
    """A cached prefix: a block table per KV group, with NO_BLOCK for unneeded blocks. No reference is counted yet."""

    num_tokens: int
    tables: list[list[int]]
    num_units: int
    num_units_of_first_group: int  # cached in group 0 alone: where they end, another sequence diverged from this one
    restored: tuple[RestoredBlock, ...] = ()  # blocks that no pool has; `tables` have NO_BLOCK for them


class PrefixIndex:
    """Finds cached blocks by digest. Each KV group stores the same tokens in blocks of its own."""

    def __init__(self, groups: tuple[KVGroup, ...], pools: abc.Sequence[BlockPool]) -> None:
        """pools: the block pool of each group."""
        self.groups = groups
        self._pools = pools
        self.unit = prefix_unit(groups)
        self.blocks_per_unit = [self.unit // group.block_size for group in groups]
        self._suffixes = [
            [group_key(index, b"", part) for part in range(parts)] for index, parts in enumerate(self.blocks_per_unit)
        ]

    def longest_match(self, hashes: abc.Sequence[bytes], stored: abc.Container[bytes] | None = None) -> PrefixMatch:
        """Return the longest prefix of the units with these digests for which all groups have the blocks they need.

        stored: keys of blocks that count as present, though no pool has them.
        """
        num_units_of_first_group = self._longest_in_group(0, hashes, stored)
        num_units = self._longest_in_all(hashes[:num_units_of_first_group], stored)
        num_tokens = num_units * self.unit
        tables: list[list[int]] = []
        restored: list[RestoredBlock] = []
        for index, (group, parts) in enumerate(zip(self.groups, self.blocks_per_unit, strict=True)):
            first, end = min(group.first_needed_entry(num_tokens), num_units * parts), num_units * parts
            found = [self.find(index, hashes, entry) for entry in range(first, end)]
            tables.append([NO_BLOCK] * first + [NO_BLOCK if block is None else block for block in found])
            if None in found:
                missing = (entry for entry, block in enumerate(found, start=first) if block is None)
                restored += [RestoredBlock(index, entry, self.key(index, hashes, entry)) for entry in missing]
        assert stored is not None or not restored
        return PrefixMatch(num_tokens, tables, num_units, num_units_of_first_group, tuple(restored))

    def is_continued(self, match: PrefixMatch, hashes: abc.Sequence[bytes]) -> bool:
        """Whether a match that was the longest would be longer now, if all its blocks are still cached and all groups
        have full attention."""
        longest = match.num_units_of_first_group
        if longest < len(hashes) and self._has_unit(0, hashes, longest):
            return True
        others = range(1, len(self.groups))
        return match.num_units < longest and all(self._has_unit(index, hashes, match.num_units) for index in others)

    def _has_unit(self, index: int, hashes: abc.Sequence[bytes], unit: int) -> bool:
        parts = self.blocks_per_unit[index]
        return not any(self._is_missing(index, hashes, unit * parts + part, None) for part in range(parts))

    def keys(self, hashes: abc.Sequence[bytes]) -> list[bytes]:
        """Return the keys of all groups' blocks of the units with these digests."""
        return [
            self.key(index, hashes, entry)
            for index, parts in enumerate(self.blocks_per_unit)
            for entry in range(len(hashes) * parts)
        ]

    def needed_keys(self, hashes: abc.Sequence[bytes]) -> list[bytes]:
        """Return the keys of the blocks that a sequence needs to continue after the units with these digests."""
        num_tokens = len(hashes) * self.unit
        return [
            self.key(index, hashes, entry)
            for index, (group, parts) in enumerate(zip(self.groups, self.blocks_per_unit, strict=True))
            for entry in range(group.first_needed_entry(num_tokens), len(hashes) * parts)
        ]

    def missing_keys(self, hashes: abc.Sequence[bytes]) -> list[bytes]:
        """Return the keys of all blocks of these units that no pool has."""
        return [key for key in self.keys(hashes) if self._pools[group_of_key(key)].find(key) is None]

    def find(self, index: int, hashes: abc.Sequence[bytes], entry: int) -> int | None:
        """Return the block, in use or free, that group `index` needs as this entry of a table; None if it is not
        cached. hashes: the digests of a sequence's units."""
        return self._pools[index].find(self.key(index, hashes, entry))

    def key(self, index: int, hashes: abc.Sequence[bytes], entry: int) -> bytes:
        """Return the key under which the block of an entry of a group's table is registered in its pool."""
        suffixes = self._suffixes[index]
        return hashes[entry // len(suffixes)] + suffixes[entry % len(suffixes)]

    def _longest_in_all(self, hashes: abc.Sequence[bytes], stored: abc.Container[bytes] | None) -> int:
        """Return the number of units of the longest prefix that all groups have; each group can only lower it."""
        num_units, num_agreeing, index = len(hashes), 0, 0
        while num_agreeing < len(self.groups):
            longest = self._longest_in_group(index, hashes[:num_units], stored)
            num_agreeing = num_agreeing + 1 if longest == num_units else 1
            num_units = longest
            index = (index + 1) % len(self.groups)
        return num_units

    def _longest_in_group(self, index: int, hashes: abc.Sequence[bytes], stored: abc.Container[bytes] | None) -> int:
        group, parts = self.groups[index], self.blocks_per_unit[index]
        if group.is_full_attention:
            entries = range(len(hashes) * parts)
            missing = (entry for entry in entries if self._is_missing(index, hashes, entry, stored))
            return next(missing, len(entries)) // parts
        end = entry = len(hashes) * parts
        while entry > group.first_needed_entry(end * group.block_size):
            entry -= 1
            if self._is_missing(index, hashes, entry, stored):
                end = entry = entry // parts * parts  # no longer prefix can do without this block
        return end // parts

    def _is_missing(
        self, index: int, hashes: abc.Sequence[bytes], entry: int, stored: abc.Container[bytes] | None
    ) -> bool:
        key = self.key(index, hashes, entry)
        return self._pools[index].find(key) is None and (stored is None or key not in stored)


def group_key(group: int, digest: bytes, part: int = 0) -> bytes:
    """Return the key under which a group's block is registered in its pool. digest: of the block's prefix unit. part:
    the block's number in the unit."""
    return digest + part.to_bytes(1) + group.to_bytes(1)


def group_of_key(key: bytes) -> int:
    """Return the group whose block has this key."""
    return key[-1]


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


def unit_hashes(
    tokens: abc.Sequence[int], unit: int, cache_salt: str, adapter: bytes | None, known: abc.Sequence[bytes] = ()
) -> list[bytes]:
    """Return the chained digests of the tokens' full units after the first ones, whose digests are `known`. unit: its
    tokens. cache_salt, adapter: as of `root_digest`."""
    hashes: list[bytes] = []
    parent = known[-1] if known else root_digest(cache_salt, adapter)
    for index in range(len(known), len(tokens) // unit):
        parent = unit_digest(parent, tokens[index * unit : (index + 1) * unit])
        hashes.append(parent)
    return hashes


def unit_digest(parent: bytes, token_ids: abc.Sequence[int]) -> bytes:
    """Return the digest of a full unit that follows the unit with digest `parent`."""
    return blake2b(parent + array("q", token_ids).tobytes(), digest_size=_DIGEST_BYTES, person=b"block").digest()
