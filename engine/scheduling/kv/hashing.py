"""Digests of full KV blocks: equal digests mean equal tokens, equal history and equal cache salt.

A digest decides whether one client's KV is read for another, so it is cryptographic: a collision across salts would be
a disclosure. Each digest covers its parent's, hence the whole prefix.
"""

from array import array
from collections import abc
from hashlib import blake2b

_DIGEST_BYTES = 16


def root_digest(cache_salt: str) -> bytes:
    """The parent of a sequence's first block.

    A domain of its own (`person`) keeps a salt, which a client may choose, from imitating a block's digest.
    """
    return blake2b(cache_salt.encode(), digest_size=_DIGEST_BYTES, person=b"salt").digest()


def block_digest(parent: bytes, token_ids: abc.Sequence[int]) -> bytes:
    """The digest of a full block that follows `parent`."""
    return blake2b(parent + array("q", token_ids).tobytes(), digest_size=_DIGEST_BYTES, person=b"block").digest()
