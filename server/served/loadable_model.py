"""Resident: one model as far as its being loaded goes, and who waits for it."""

import enum
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from server.served.pending_requests import Wish

SPARED_S = 300.0  # after its last request of a client, in which batches do not have a model unloaded; or its idle_s
MIN_RETRY_S = 1.0  # that a refused client is told to wait


class ModelState(enum.StrEnum):
    """unloaded -> loading -> loaded -> unloading -> unloaded; loading and loaded may also fail, and are tried again."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    LOADED = "loaded"
    UNLOADING = "unloading"  # nobody uses it any more
    FAILED = "failed"


class Claim(NamedTuple):
    """To a model's being loaded: those of clients come first, then whoever came first."""

    is_batch: bool
    number: int


@dataclass(eq=False, slots=True)
class Waiter:
    """A request that waits for its model, until it is admitted or has an error; then `notify` is called once."""

    number: int  # in the order in which requests came
    notify: Callable[[], None]
    is_batch: bool = False  # a line of a batch, for which nobody waits
    is_admitted: bool = False
    error: Exception | None = None

    @property
    def is_over(self) -> bool:
        return self.is_admitted or self.error is not None


@dataclass(eq=False, slots=True)
class Resident:
    """One model as far as its being loaded goes."""

    name: str
    need_bytes: int  # weights, KV cache and process, while it is loading, loaded or unloading
    max_waiting: int
    is_pinned: bool = False  # only an operator unloads it
    idle_s: float | None = None  # without a request, after which it is unloaded; None is never
    load_s: float = 5.0  # that loading took the last time
    state: ModelState = ModelState.UNLOADED
    reason: str = ""  # of FAILED
    num_users: int = 0  # requests that were admitted and are not over
    num_clients: int = 0  # of these, those that are no lines of batches
    waiters: deque[Waiter] = field(default_factory=deque)
    is_wanted: bool = False  # without a request: at the start, or by an operator
    load_wishes: list[Wish] = field(default_factory=list)
    unload_wishes: list[Wish] = field(default_factory=list)
    must_unload: bool = False  # as soon as nobody uses it
    keep_s: float | None = None  # of the last request, in place of `idle_s`; infinite is never
    measured_bytes: int | None = None  # that it needed
    used_s: float = 0.0
    client_used_s: float = -math.inf  # the same, but for lines of batches
    began_s: float = 0.0  # to load
    failed_s: float = -math.inf
    num_failures: int = 0  # in a row

    @property
    def idle_limit_s(self) -> float | None:
        return self.idle_s if self.keep_s is None else self.keep_s

    def idle_left_s(self, now_s: float) -> float | None:
        """Until it is unloaded if no request comes; None is never."""
        limit_s = self.idle_limit_s
        return None if limit_s is None or self.is_pinned else max(0.0, self.used_s + limit_s - now_s)

    @property
    def claim(self) -> "Claim | None":
        """That of the first request for which it ought to be loaded, and is not; None if there is none."""
        if self.state is not ModelState.UNLOADED:
            return None
        if self.is_wanted:
            return Claim(False, -1)
        of_clients = (each for each in self.waiters if not each.is_batch)
        first = next(of_clients, self.waiters[0] if self.waiters else None)
        return None if first is None else Claim(first.is_batch, first.number)

    @property
    def retry_after_s(self) -> float:
        """For who is refused because other models or requests are in the way."""
        return max(MIN_RETRY_S, self.load_s)

    @property
    def num_waiting_clients(self) -> int:
        return sum(not each.is_batch for each in self.waiters)

    @property
    def spared_until_s(self) -> float:
        """Until when batches do not have it unloaded."""
        if self.num_clients or self.num_waiting_clients:
            return math.inf
        return self.client_used_s + (SPARED_S if self.idle_s is None else self.idle_s)
