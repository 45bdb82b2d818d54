"""KeyRing: the API keys that are accepted now, and the caller behind each."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from server.errors import ExpiredApiKey, InvalidApiKey
from server.keys.account import Account, ReservedBudget
from server.keys.caller import ANYBODY, Caller, named_caller, option_caller
from server.keys.key import ApiKey, key_digest
from server.keys.spending import Spending
from server.metrics.values import Metrics

_OPTION_SCOPE = "--api-key"  # of all keys of this option, if there is a keys file too
_EXPIRED = "expired"


class KeyRing:
    """Keys of --api-key and of the keys file, looked up by digest, so that timing reveals nothing about keys.

    If a key is given in both ways, its entry in the file counts.
    """

    def __init__(
        self,
        option_keys: Sequence[str],
        file_keys: Sequence[ApiKey] | None,
        *,
        shares_cache: bool,
        spending: Spending,
        metrics: Metrics,
        aliases: Mapping[str, str] = MappingProxyType({}),
        clock: Callable[[], float] = time.time,
    ) -> None:
        """file_keys: None without a keys file; then all callers with a key are operators. aliases: further names of
        models, which a key may list, with the model's own name. clock: seconds since 1970."""
        self.asks_for_keys = bool(option_keys) or file_keys is not None
        self.keys: tuple[ApiKey, ...] = ()
        self._shares_cache = shares_cache
        self._spending = spending
        self._metrics = metrics
        self._aliases = aliases
        self._clock = clock
        self._accounts: dict[str, Account] = {}
        self._batch_accounts: dict[str, Account] = {}
        has_file = file_keys is not None
        self._options = {
            key_digest(key.encode()): option_caller(
                key.encode(),
                number,
                is_operator=not has_file,
                cache_scope=_OPTION_SCOPE if has_file and not shares_cache else "",
            )
            for number, key in enumerate(option_keys, 1)
        }
        self._accepted: dict[bytes, tuple[Caller, float]] = {}  # by digest; with the time of expiry by time.time()
        self.replace(file_keys or ())

    def replace(self, keys: Iterable[ApiKey]) -> None:
        """Replace the keys of the file. Previous use counts against the new limits; running requests continue."""
        self.keys = tuple(keys)
        accounts = {key.name: self._account(self._accounts, key) for key in self.keys}
        self._accounts = accounts
        no_rates: dict[str, Any] = {"requests_per_minute": None, "tokens_per_minute": None, "max_concurrency": None}
        for_batches = [msgspec.structs.replace(key, **no_rates) for key in self.keys]
        self._batch_accounts = {
            key.name: self._account(self._batch_accounts, key, accounts[key.name].reserved) for key in for_batches
        }
        accepted = {digest: (caller, float("inf")) for digest, caller in self._options.items()}
        for key in self.keys:
            if key.models is not None:
                key = msgspec.structs.replace(key, models=tuple(self._aliases.get(name, name) for name in key.models))
            caller = named_caller(key, accounts[key.name], shares_cache=self._shares_cache)
            expires_s = float("inf") if key.expires is None else key.expires.timestamp()
            accepted[key.digest] = (caller, expires_s)
        self._accepted = accepted
        self._metrics.set("api_keys", len(self.keys))

    def _account(self, accounts: Mapping[str, Account], key: ApiKey, reserved: ReservedBudget | None = None) -> Account:
        account = accounts.get(key.name)
        if account is None:
            return Account(key, self._spending, on_refused=self._metrics.count_key_refusal, reserved=reserved)
        account.set_limits(key)
        return account

    def find(self, token: bytes) -> Caller:
        """Return the caller with this key. Raises InvalidApiKey or ExpiredApiKey."""
        found = self._accepted.get(key_digest(token))
        if found is None:
            raise InvalidApiKey(
                "the request has no valid API key; send one as 'Authorization: Bearer KEY' or 'x-api-key: KEY'"
            )
        caller, expires_s = found
        if self._clock() >= expires_s:
            name = caller.name or ""
            self._metrics.count_key_refusal(name, _EXPIRED)
            moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(expires_s))
            raise ExpiredApiKey(f"the API key {name!r} expired at {moment}; ask the server's operator for another")
        return caller

    def named(self, name: str) -> Caller | None:
        """Return the caller whose key has this name in the keys file, though it may have expired; None without one."""
        return next((caller for caller, _ in self._accepted.values() if caller.name == name), None)

    def owner_name(self, owner: str) -> str:
        """Return the name of the key that owns an object, or words for an owner without a name that is known now."""
        if owner == ANYBODY.owner:
            return "no key"
        names = (each.name or each.tenant for each, _ in self._accepted.values() if each.owner == owner)
        return next(names, "a removed key")

    @property
    def first_operator(self) -> str | None:
        """Owner id of the first key that is an operator's and has not expired; None if there is none."""
        now_s = self._clock()
        accepted = (caller for caller, expires_s in self._accepted.values() if now_s < expires_s)
        return next((caller.owner for caller in accepted if caller.is_operator), None)

    def batch_caller(self, owner: str) -> Caller | None:
        """Return the caller that owns a batch; None while no key of the owner is accepted. The caller has no rate
        limits, only its key's budget, since batches wait for capacity anyway."""
        if not self.asks_for_keys:
            return ANYBODY if owner == ANYBODY.owner else None
        now_s = self._clock()
        for caller, expires_s in self._accepted.values():
            if caller.owner == owner and now_s < expires_s:
                account = None if caller.name is None else self._batch_accounts[caller.name]
                return dataclasses.replace(caller, account=account)
        return None
