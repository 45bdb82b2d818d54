"""Drain: whether the server accepts new requests, or only finishes running ones."""

from dataclasses import dataclass

from engine.errors import EngineUnavailable
from server.errors import AlreadyStopping

_WATCHED_S = 300.0  # load balancers check again within five minutes


@dataclass(slots=True)
class Drain:
    """State machine: serving <--> draining --> stopping; serving --> stopping. Accepts requests only while serving."""

    started_s: float | None = None  # on the monotonic clock; None while serving
    is_stopping: bool = False
    checked_s: float | None = None  # when a client last checked whether the server takes requests

    @property
    def is_active(self) -> bool:
        return self.started_s is not None

    def is_watched(self, now_s: float) -> bool:
        """Whether a client such as a load balancer polls the server's readiness, and so would notice a drain."""
        return self.checked_s is not None and now_s - self.checked_s < _WATCHED_S

    @property
    def reason(self) -> str:
        """Why new requests are refused, as a message for clients."""
        return "the server is shutting down" if self.is_stopping else "the server accepts no new requests (POST /drain)"

    def check(self) -> None:
        """Raise EngineUnavailable while draining or stopping."""
        if self.is_active:
            raise EngineUnavailable(f"{self.reason}; send the request to another server")

    def start(self, now_s: float) -> None:
        """Start to drain. No effect while already draining."""
        if self.started_s is None:
            self.started_s = now_s

    def stop(self, now_s: float) -> None:
        """Drain with no way back, before the process ends."""
        self.start(now_s)
        self.is_stopping = True

    def cancel(self) -> None:
        """End the drain, and accept requests again. Raises AlreadyStopping if the process is about to end."""
        if self.is_stopping:
            raise AlreadyStopping(
                "the server is shutting down, which cannot be undone; send requests to another server"
            )
        self.started_s = None
