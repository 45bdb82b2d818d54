"""Drain: whether the server takes new requests, or only finishes the running ones."""

from dataclasses import dataclass

from engine.errors import EngineUnavailable
from server.errors import AlreadyStopping

_WATCHED_S = 300.0  # load balancers check again within five minutes


@dataclass(slots=True)
class Drain:
    """serving <--> draining --> stopping; serving --> stopping. While draining or stopping, no new request is taken."""

    started_s: float | None = None  # on the monotonic clock; None while serving
    is_stopping: bool = False
    checked_s: float | None = None  # when a client last checked whether the server takes requests

    @property
    def is_active(self) -> bool:
        return self.started_s is not None

    def is_watched(self, now_s: float) -> bool:
        """Whether a client, such as a load balancer, checks from time to time and would notice a drain."""
        return self.checked_s is not None and now_s - self.checked_s < _WATCHED_S

    @property
    def reason(self) -> str:
        """Why no new request is taken, for clients."""
        return "the server is shutting down" if self.is_stopping else "the server accepts no new requests (POST /drain)"

    def check(self) -> None:
        """Raise EngineUnavailable if no new request is taken."""
        if self.is_active:
            raise EngineUnavailable(f"{self.reason}; send the request to another server")

    def start(self, now_s: float) -> None:
        """Start to drain. No effect while draining."""
        if self.started_s is None:
            self.started_s = now_s

    def stop(self, now_s: float) -> None:
        """Drain for good, before the process ends."""
        self.start(now_s)
        self.is_stopping = True

    def cancel(self) -> None:
        """Serve again. Raises AlreadyStopping."""
        if self.is_stopping:
            raise AlreadyStopping(
                "the server is shutting down, which cannot be undone; send requests to another server"
            )
        self.started_s = None
