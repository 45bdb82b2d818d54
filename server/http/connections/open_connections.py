"""OpenConnections: counts open connections, in all and per client, and decides on new ones."""

import enum
from collections import Counter

REFUSED_STATE = "connection_refused"  # in a scope's state: RequestMiddleware answers with 503

_SURPLUS = 4  # for every 4 connections within the limit, 1 beyond it gets an answer that says why it is refused


class Admission(enum.Enum):
    """Decision about a new connection, by the number of open ones."""

    SERVED = "served"
    REFUSED = "refused"  # its request is answered with 503, a probe as usual
    DROPPED = "dropped"  # even refusing would cost too much


class OpenConnections:
    """Counts open connections. Each `enter` must be followed by one `leave`, whatever admission it returns."""

    def __init__(self, limit: int, limit_per_client: int | None) -> None:
        self._limit = limit
        self._limit_per_client = limit_per_client
        self._by_client: Counter[str] = Counter()
        self._total = 0

    def __len__(self) -> int:
        return self._total

    def enter(self, client: str | None) -> Admission:
        """Count a new connection, and decide on it. client: its address; None for a proxy or Unix socket."""
        self._total += 1
        in_all = _admission(self._total, self._limit)
        if client is None:
            return in_all
        self._by_client[client] += 1
        of_client = _admission(self._by_client[client], self._limit_per_client)
        return min(in_all, of_client, key=[Admission.DROPPED, Admission.REFUSED, Admission.SERVED].index)

    def leave(self, client: str | None) -> None:
        self._total -= 1
        if client is None:
            return
        self._by_client[client] -= 1
        if not self._by_client[client]:
            del self._by_client[client]

    def check(self) -> None:
        """Assert the invariants."""
        assert self._total >= self._by_client.total()
        assert all(number > 0 for number in self._by_client.values())


def _admission(number: int, limit: int | None) -> Admission:
    """Return the decision about a connection when it is the `number`-th open one."""
    if limit is None or number <= limit:
        return Admission.SERVED
    return Admission.REFUSED if number <= limit + max(1, limit // _SURPLUS) else Admission.DROPPED
