"""The threads that a test has started; threads of the tests before may end at any moment."""

import threading


class NewThreads:
    """Threads started since this was made, without those in asyncio's own executor.

    That one begins another whenever the last has not yet said that it is idle, so that their number is chance.
    """

    def __init__(self) -> None:
        self._before = set(threading.enumerate())

    def names(self, *prefixes: str) -> list[str]:
        """The names of those that live, if they begin so."""
        started = set(threading.enumerate()) - self._before
        names = sorted(thread.name for thread in started if not thread.name.startswith("asyncio_"))
        return [name for name in names if name.startswith(prefixes or "")]
