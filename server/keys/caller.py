"""Caller: whoever sent a request, as its key tells."""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """What a request's sender is and may do."""

    owner: str  # of what it makes: streams, stored responses
    is_operator: bool  # may run the server: its key is an admin's
    reads_metrics: bool


# Of a server without keys, and of paths that ask for none. What it makes belongs to everybody.
ANYBODY = Caller(owner="", is_operator=False, reads_metrics=True)


def key_caller(key: bytes) -> Caller:
    """Of a key that is an option of the server. Whoever has it is an operator."""
    return Caller(owner=key_owner(key), is_operator=True, reads_metrics=True)


def key_owner(key: bytes) -> str:
    """The owner of what a client with this key makes: the same after a restart, and no way back to the key."""
    return hashlib.blake2b(key, digest_size=16, person=b"headrace owner").hexdigest()
