"""LoadableModel: the load state of a model that is loaded on demand, and the requests that wait for it."""

import enum
import math
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from engine.errors import EngineUnavailable
from server.errors import ModelFailed
from server.served.pending_requests import OperatorRequest, Waiter

PROTECTED_S = 300.0  # for which batches may not displace a model that a client used; or its idle_s
_MIN_RETRY_S = 1.0  # the least time that a refused client has to wait
_RETRY_FAILED_S = 10.0  # pause between a failed load and the next
_MAX_RETRY_S = 300.0  # longest pause before the server tries again without a request


class ModelState(enum.StrEnum):
    """unloaded -> loading -> loaded -> unloading -> unloaded. Loading and loaded models may fail, and are retried."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    LOADED = "loaded"
    UNLOADING = "unloading"  # no request uses it any more
    FAILED = "failed"


class LoadPriority(NamedTuple):
    """Sort key of models to load: models that clients wait for first, then by arrival of the first waiting request."""

    is_batch: bool
    number: int


@dataclass(eq=False, slots=True)
class LoadableModel:
    """The loading policy's state of one model."""

    name: str
    need_bytes: int  # weights, KV cache and process, while it is loading, loaded or unloading
    max_waiting: int
    is_pinned: bool = False  # only an operator unloads it
    device: str = "cpu"  # whose memory it takes
    idle_s: float | None = None  # time without a request after which it is unloaded; None is never
    load_s: float = 5.0  # duration of the last load
    state: ModelState = ModelState.UNLOADED
    reason: str = ""  # why the model is in state FAILED
    num_users: int = 0  # requests that were admitted and are not over
    num_clients: int = 0  # users among num_users that are not lines of batches
    waiters: deque[Waiter] = field(default_factory=deque)
    is_load_requested: bool = False  # at startup or by an operator, not by a client's request
    load_requests: list[OperatorRequest] = field(default_factory=list)
    unload_requests: list[OperatorRequest] = field(default_factory=list)
    must_unload: bool = False  # unload as soon as num_users is 0
    keep_alive_s: float | None = None  # set by the last request, replaces `idle_s`; infinite is never
    measured_bytes: int | None = None  # memory that the model used when it was last loaded
    used_s: float = 0.0  # when the last request ended or the model was loaded; monotonic, like all times below
    client_used_s: float = -math.inf  # when a client's last request ended
    load_started_s: float = 0.0
    failed_s: float = -math.inf
    has_failed_for_good: bool = False  # the last failure's cause is in the model's files or options
    is_reason_public: bool = False  # `reason` names no files
    num_failures: int = 0  # consecutive failures to load

    @property
    def idle_limit_s(self) -> float | None:
        return self.idle_s if self.keep_alive_s is None else self.keep_alive_s

    def idle_left_s(self, now_s: float) -> float | None:
        """Return the time until the model is unloaded if no request comes; None if it stays loaded."""
        limit_s = self.idle_limit_s
        return None if limit_s is None or self.is_pinned else max(0.0, self.used_s + limit_s - now_s)

    @property
    def load_priority(self) -> LoadPriority | None:
        """Priority of loading the model; None if it is not unloaded, or neither a request nor an operator needs it."""
        if self.state is not ModelState.UNLOADED:
            return None
        if self.is_load_requested:
            return LoadPriority(False, -1)
        of_clients = (each for each in self.waiters if not each.is_batch)
        first = next(of_clients, self.waiters[0] if self.waiters else None)
        return None if first is None else LoadPriority(first.is_batch, first.number)

    @property
    def retry_after_s(self) -> float:
        """Seconds after which a client may retry a request that was refused because memory or the queue was full."""
        return max(_MIN_RETRY_S, self.load_s)

    @property
    def num_waiting_clients(self) -> int:
        return sum(not each.is_batch for each in self.waiters)

    @property
    def protected_until_s(self) -> float:
        """Time until which the model may not be unloaded for a batch."""
        if self.num_clients or self.num_waiting_clients:
            return math.inf
        return self.client_used_s + (PROTECTED_S if self.idle_s is None else self.idle_s)

    @property
    def own_retry_s(self) -> float:
        """Time at which the server itself retries loading the failed model. The pause grows with each failure."""
        wait_s: float = _RETRY_FAILED_S * 2.0 ** min(self.num_failures - 1, 10)
        return self.failed_s + min(wait_s, _MAX_RETRY_S)

    def failure(self, now_s: float) -> EngineUnavailable:
        """Return the error for requests to the failed model. It omits the reason if that may name files."""
        if self.has_failed_for_good and self.is_reason_public:
            return ModelFailed.because(self.reason)
        if self.has_failed_for_good:
            return ModelFailed(
                "the model could not be loaded because of its files or options; use another model until the operator "
                "has changed them; the server's log has the reason",
                retry_after_s=None,
            )
        left_s = max(_MIN_RETRY_S, self.failed_s + _RETRY_FAILED_S - now_s)
        again = f"try again in {math.ceil(left_s)} s"
        if self.measured_bytes is None:
            return ModelFailed(
                f"the model could not be loaded; {again}, or use another model; the server's log has the reason",
                retry_after_s=left_s,
            )
        return EngineUnavailable(f"the model has failed; {again}")

    def clear_failure(self, now_s: float) -> None:
        """Allow the failed model to be loaded again. Raises EngineUnavailable if it failed less than 10 s ago."""
        if now_s - self.failed_s < _RETRY_FAILED_S:
            raise self.failure(now_s)
        self.state = ModelState.UNLOADED
