"""HostAdapters: LRU cache of adapters in host memory, in the form in which they were read."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Generic

from engine.adapters.source import A


class HostAdapters(Generic[A]):
    """LRU cache of `limit` adapters. Beyond the limit, it keeps only adapters of started requests, whose files may have
    changed.

    An evicted adapter is read again when a request needs it. Invariant: `_forgotten` is a subset of `_adapters`.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._adapters: OrderedDict[bytes, A] = OrderedDict()  # the least recently used first
        self._forgotten: set[bytes] = set()  # no new request will have these

    def __len__(self) -> int:
        return len(self._adapters)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._adapters

    def get(self, digest: bytes) -> A | None:
        if (adapter := self._adapters.get(digest)) is not None:
            self._adapters.move_to_end(digest)
        return adapter

    def add(self, adapter: A, in_use: Mapping[bytes, bool]) -> None:
        """Add an adapter, and evict other adapters beyond the limit. in_use: the adapters of open requests, by digest;
        true if any request that uses the adapter has started."""
        self._forgotten.discard(adapter.digest)
        self._adapters[adapter.digest] = adapter
        self._adapters.move_to_end(adapter.digest)
        while len(self._adapters) > self._limit and (victim := self._victim(in_use, adapter.digest)) is not None:
            del self._adapters[victim]
            self._forgotten.discard(victim)

    def _victim(self, in_use: Mapping[bytes, bool], newest: bytes) -> bytes | None:
        """Return the least recently used adapter without open requests, or else one whose requests have not started."""
        others = [digest for digest in self._adapters if digest != newest]
        unused = (digest for digest in others if digest not in in_use)
        not_started = (digest for digest in others if not in_use.get(digest))
        return next(unused, next(not_started, None))

    def forget(self, digest: bytes) -> None:
        """Mark an adapter to be dropped when its last request has ended: no new request will use it."""
        if digest in self._adapters:
            self._forgotten.add(digest)

    @property
    def has_forgotten(self) -> bool:
        return bool(self._forgotten)

    def drop_forgotten(self, in_use: Mapping[bytes, bool]) -> None:
        for digest in self._forgotten - in_use.keys():
            del self._adapters[digest]
        self._forgotten &= in_use.keys()
