"""Drain: whether the server takes requests, or only finishes what runs."""

from dataclasses import dataclass

from engine.errors import EngineUnavailable
from server.errors import AlreadyStopping

_WATCHED_S = 300.0  # load balancers ask again within five minutes


@dataclass(slots=True)
class Drain:
    """serving <--> draining --> stopping; serving --> stopping. While draining or stopping nothing new is taken."""

    began_s: float | None = None  # on the monotonic clock; None while serving
    is_stopping: bool = False
    asked_s: float | None = None  # when somebody last asked whether the server takes requests

    @property
    def is_active(self) -> bool:
        return self.began_s is not None

    def is_watched(self, now_s: float) -> bool:
        """Whether somebody asks from time to time, such as a load balancer, and would notice."""
        return self.asked_s is not None and now_s - self.asked_s < _WATCHED_S

    @property
    def reason(self) -> str:
        """Why nothing new is taken, for clients."""
        return "the server is shutting down" if self.is_stopping else "the server accepts no new requests (POST /drain)"

    def check(self) -> None:
        """Raise EngineUnavailable if nothing new is taken."""
        if self.is_active:
            raise EngineUnavailable(f"{self.reason}; send the request to another one")

    def begin(self, now_s: float) -> None:
        """From draining on this changes nothing."""
        if self.began_s is None:
            self.began_s = now_s

    def stop(self, now_s: float) -> None:
        """For good: the process ends."""
        self.begin(now_s)
        self.is_stopping = True

    def cancel(self) -> None:
        """Raises AlreadyStopping."""
        if self.is_stopping:
            raise AlreadyStopping("the server is shutting down, which cannot be undone; send requests to another one")
        self.began_s = None
