"""HostAdapters: adapters in memory as they were read, the least recently used of which make room."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Generic

from engine.adapters.source import A


class HostAdapters(Generic[A]):
    """At most `limit`, and beyond that those that requests have begun with: their files may have changed since.

    What is evicted is read again when a request asks for it. Invariant: what is forgotten is in memory.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._adapters: OrderedDict[bytes, A] = OrderedDict()  # the least recently used first
        self._forgotten: set[bytes] = set()  # that no new request will ask for

    def __len__(self) -> int:
        return len(self._adapters)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._adapters

    def get(self, digest: bytes) -> A | None:
        if (adapter := self._adapters.get(digest)) is not None:
            self._adapters.move_to_end(digest)
        return adapter

    def add(self, adapter: A, in_use: Mapping[bytes, bool]) -> None:
        """in_use: adapters of unfinished requests, and whether any of these has begun."""
        self._forgotten.discard(adapter.digest)
        self._adapters[adapter.digest] = adapter
        self._adapters.move_to_end(adapter.digest)
        while len(self._adapters) > self._limit and (victim := self._victim(in_use, adapter.digest)) is not None:
            del self._adapters[victim]
            self._forgotten.discard(victim)

    def _victim(self, in_use: Mapping[bytes, bool], newest: bytes) -> bytes | None:
        """The first that no request asks for, or else the first that none has begun with."""
        others = [digest for digest in self._adapters if digest != newest]
        unused = (digest for digest in others if digest not in in_use)
        not_begun = (digest for digest in others if not in_use.get(digest))
        return next(unused, next(not_begun, None))

    def forget(self, digest: bytes) -> None:
        """No new request will ask for it: it goes when the last one has ended."""
        if digest in self._adapters:
            self._forgotten.add(digest)

    @property
    def has_forgotten(self) -> bool:
        return bool(self._forgotten)

    def drop_forgotten(self, in_use: Mapping[bytes, bool]) -> None:
        for digest in self._forgotten - in_use.keys():
            del self._adapters[digest]
        self._forgotten &= in_use.keys()
