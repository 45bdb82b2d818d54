"""Digests of full KV blocks: equal digests mean equal tokens, history, adapter and cache salt.

A digest decides whether one client's KV is read for another, so it is cryptographic: a collision across salts would be
a disclosure. Each digest covers its parent's, hence the whole prefix.
"""

from array import array
from collections import abc
from hashlib import blake2b

_DIGEST_BYTES = 16


def root_digest(cache_salt: str, adapter: bytes | None = None) -> bytes:
    """The parent of a sequence's first block. adapter: the digest of its contents, never its name: what was computed
    with a version is not found again for the next one of the same name.

    Domains of their own (`person`) keep a salt, which a client may choose, from imitating another digest.
    """
    root = blake2b(cache_salt.encode(), digest_size=_DIGEST_BYTES, person=b"salt").digest()
    if adapter is None:
        return root
    return blake2b(root + adapter, digest_size=_DIGEST_BYTES, person=b"adapter").digest()


def block_digest(parent: bytes, token_ids: abc.Sequence[int]) -> bytes:
    """The digest of a full block that follows `parent`."""
    return blake2b(parent + array("q", token_ids).tobytes(), digest_size=_DIGEST_BYTES, person=b"block").digest()
