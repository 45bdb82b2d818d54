"""Arrivals: notices of client requests, for background work that gives way to them."""

from collections.abc import Callable


class Arrivals:
    """Calls its listeners for each request of a client, before anything of the request is computed."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[], None]] = []

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Add a listener. It is called on the event loop's thread and must not block."""
        self._listeners.append(listener)

    def notify(self) -> None:
        for listener in self._listeners:
            listener()
