"""Activity: that a request comes, told before anything of it is computed."""

from collections.abc import Callable


class Activity:
    """Of one server. Whoever works in the background listens, and gives way at once."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[], None]] = []

    def listen(self, listener: Callable[[], None]) -> None:
        """Have it called for each request of a client, from the event loop's thread. It must not block."""
        self._listeners.append(listener)

    def note(self) -> None:
        for listener in self._listeners:
            listener()
