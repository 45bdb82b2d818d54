"""ApiKey: one entry of a keys file; and functions to make keys and their hashes."""

import datetime
import enum
import hashlib
import secrets
from typing import Annotated

import msgspec
from msgspec import Meta

from engine.protocol import MAX_TENANT_WEIGHT, MIN_TENANT_WEIGHT

HASH_PREFIX = "sha256:"
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
NO_NAMES = frozenset({"other", "none"})  # labels of metrics for keys without a label of their own

_KEY_PREFIX = "hr-"
_KEY_BYTES = 32
_MOST = 10**15

_Count = Annotated[int, Meta(ge=1, le=_MOST)]


class BudgetPeriod(enum.StrEnum):
    """Period of a token budget: a UTC day or month."""

    DAY = "day"
    MONTH = "month"


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Entry of a keys file: a key's name, hash, permissions and limits. None means no limit."""

    name: str
    hash: str  # HASH_PREFIX and the hexadecimal SHA-256 of the key
    admin: bool = False
    metrics: bool = False  # may read /metrics; implied by admin
    weight: Annotated[float, Meta(ge=MIN_TENANT_WEIGHT, le=MAX_TENANT_WEIGHT)] = 1.0
    requests_per_minute: _Count | None = None
    tokens_per_minute: _Count | None = None
    max_concurrency: _Count | None = None
    models: tuple[str, ...] | None = None  # names of models that the key may use
    budget_tokens: Annotated[int, Meta(ge=0, le=_MOST)] | None = None
    budget_period: BudgetPeriod = BudgetPeriod.MONTH
    expires: Annotated[datetime.datetime, Meta(tz=True)] | None = None
    cache_group: Annotated[str, Meta(min_length=1, max_length=64)] | None = (
        None  # keys of a group share cached prefixes
    )

    @property
    def digest(self) -> bytes:
        return bytes.fromhex(self.hash.removeprefix(HASH_PREFIX))


def new_key() -> str:
    """Return a random key. It cannot be guessed, so its hash needs no salt and may be fast."""
    return _KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)


def key_digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def key_hash(key: str) -> str:
    """Return the hash that a keys file contains in place of the key."""
    return HASH_PREFIX + key_digest(key.encode()).hex()
