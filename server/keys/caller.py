"""Caller: the sender of a request, identified by its key."""

import hashlib
import re
from collections.abc import MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from server.keys.account import Account
from server.keys.key import ApiKey

_SCOPE_PREFIX = re.compile(r"[0-9]+:")  # of salts with a scope


@dataclass(frozen=True, slots=True)
class Caller:
    """The identity and permissions of a request's sender."""

    owner: str  # id of the owner of what the caller creates: streams, stored responses
    is_operator: bool  # may use the operators' endpoints: its key has `admin`
    reads_metrics: bool
    name: str | None = None  # the key's name in the keys file; None for other keys
    tenant: str = ""  # the engine shares its capacity fairly between tenants
    weight: float = 1.0  # the tenant's share relative to others
    cache_scope: str = ""  # callers with the same scope share cached prefixes; empty: no scope
    models: frozenset[str] | None = None  # names of models that the caller may use; None is all
    account: Account | None = None  # None: the caller has no limits

    def may_use(self, model: str) -> bool:
        return self.models is None or model in self.models

    def cache_salt(self, given: str) -> str:
        """Return the salt for the prefix cache: the request's salt, `given`, combined with the caller's cache scope."""
        is_plain = not self.cache_scope and not _SCOPE_PREFIX.match(given)
        return given if is_plain else f"{len(self.cache_scope)}:{self.cache_scope}{given}"


def split_salt(salt: str) -> tuple[str, str]:
    """Return the cache scope and the request's own salt of a salt that `Caller.cache_salt` made; each may be empty."""
    if (found := _SCOPE_PREFIX.match(salt)) is None:
        return "", salt
    end = found.end() + int(found[0][:-1])
    return salt[found.end() : end], salt[end:]


# The caller on a server without keys, and on paths that need none. Everyone can access the objects it creates.
ANYBODY = Caller(owner="", is_operator=False, reads_metrics=True)


def option_caller(key: bytes, number: int, *, is_operator: bool, cache_scope: str) -> Caller:
    """Return the caller for a key of --api-key. number: the key's position among the option's values, from 1."""
    return Caller(
        owner=key_owner(key),
        is_operator=is_operator,
        reads_metrics=is_operator,
        tenant=f"--api-key {number}",  # no name in a keys file looks like this
        cache_scope=cache_scope,
    )


def named_caller(key: ApiKey, account: Account, *, shares_cache: bool) -> Caller:
    """Return the caller for a key of the keys file. shares_cache: whether keys share cached prefixes by default."""
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
    """Return the owner id for objects that a client with this key creates. It does not reveal the key."""
    return hashlib.blake2b(key, digest_size=16, person=b"headrace owner").hexdigest()


def name_owner(name: str) -> str:
    """Return the owner id for objects of a named key. It stays the same when the key is replaced."""
    return hashlib.blake2b(name.encode(), digest_size=16, person=b"headrace named").hexdigest()


_current: ContextVar[Caller] = ContextVar("caller", default=ANYBODY)


def current_caller() -> Caller:
    """Return the caller of the request that this task, or the task that started it, works for."""
    return _current.get()


def set_current_caller(caller: Caller) -> None:
    """Set the caller for this task and the tasks that it starts."""
    _current.set(caller)


def caller_of(scope: MutableMapping[str, Any]) -> Caller:
    """Return the caller that is set in an ASGI scope."""
    caller: Caller = scope["state"]["caller"]
    return caller
