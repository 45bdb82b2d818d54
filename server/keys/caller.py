"""Caller: whoever sent a request, as its key tells."""

import hashlib
import re
from collections.abc import MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from server.keys.account import Account
from server.keys.key import ApiKey

_LIKE_A_SCOPES = re.compile(r"[0-9]+:")  # how salts with a scope begin


@dataclass(frozen=True, slots=True)
class Caller:
    """What a request's sender is and may do."""

    owner: str  # of what it makes: streams, stored responses
    is_operator: bool  # may run the server: its key is an admin's
    reads_metrics: bool
    name: str | None = None  # of a key of the keys file
    tenant: str = ""  # whom the engine counts its requests for
    weight: float = 1.0  # their share against those of other tenants
    cache_scope: str = ""  # who shares cached prefixes with it; empty is everybody without a scope
    models: frozenset[str] | None = None  # names that it may ask for; None is all
    account: Account | None = None  # None has no limits

    def may_use(self, model: str) -> bool:
        return self.models is None or model in self.models

    def cache_salt(self, given: str) -> str:
        """given: the request's own. No two scopes have a salt in common, whatever is given."""
        is_plain = not self.cache_scope and not _LIKE_A_SCOPES.match(given)
        return given if is_plain else f"{len(self.cache_scope)}:{self.cache_scope}{given}"


# Of a server without keys, and of paths that ask for none. What it makes belongs to everybody.
ANYBODY = Caller(owner="", is_operator=False, reads_metrics=True)


def option_caller(key: bytes, number: int, *, is_operator: bool, cache_scope: str) -> Caller:
    """Of a key that is an option of the server, the one of that number."""
    return Caller(
        owner=key_owner(key),
        is_operator=is_operator,
        reads_metrics=is_operator,
        tenant=f"--api-key {number}",  # no name in a keys file looks like this
        cache_scope=cache_scope,
    )


def named_caller(key: ApiKey, account: Account, *, shares_cache: bool) -> Caller:
    """Of a key of the keys file."""
    scope = f"group {key.cache_group}" if key.cache_group is not None else "" if shares_cache else f"key {key.name}"
    return Caller(
        owner=name_owner(key.name),
        is_operator=key.admin,
        reads_metrics=key.metrics or key.admin,
        name=key.name,
        tenant=key.name,
        weight=key.weight,
        cache_scope=scope,
        models=None if key.models is None else frozenset(key.models),
        account=account,
    )


def key_owner(key: bytes) -> str:
    """The owner of what a client with this key makes: the same after a restart, and no way back to the key."""
    return hashlib.blake2b(key, digest_size=16, person=b"headrace owner").hexdigest()


def name_owner(name: str) -> str:
    """The same of a key with a name, whose owner keeps what it made when it gets another key."""
    return hashlib.blake2b(name.encode(), digest_size=16, person=b"headrace named").hexdigest()


_current: ContextVar[Caller] = ContextVar("caller", default=ANYBODY)


def current_caller() -> Caller:
    """Of the request that this task, or the one that began it, works for."""
    return _current.get()


def set_current_caller(caller: Caller) -> None:
    """For this task and those that it begins."""
    _current.set(caller)


def caller_of(scope: MutableMapping[str, Any]) -> Caller:
    """Of an ASGI scope."""
    caller: Caller = scope["state"]["caller"]
    return caller
