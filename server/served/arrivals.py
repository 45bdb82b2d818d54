"""Arrivals: notifies background work of client requests, so that it can make way for them."""

from collections.abc import Callable


class Arrivals:
    """Calls its listeners when a client's request arrives, before the request is rendered and tokenized."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[], None]] = []

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Add a listener. It is called on the event loop's thread and must not block."""
        self._listeners.append(listener)

    def notify(self) -> None:
        for listener in self._listeners:
            listener()
