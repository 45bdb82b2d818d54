"""LiveProbe: requests /live of a server continuously, like a supervisor, and records the times."""

import http.client
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

_PAUSE_S = 0.005
_TIMEOUT_S = 120.0


def connect(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    assert parts.hostname is not None
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=_TIMEOUT_S)


class LiveProbe:
    """A probe that runs within its context.

    Times count from the first answer on: before it the program is still being loaded, and a connection waits.
    """

    def __init__(self, url: str, on_answer: Callable[[], None] = lambda: None) -> None:
        """on_answer: called by the probe's thread after each answer."""
        self._url = url
        self._on_answer = on_answer
        self._times_s: list[float] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "LiveProbe":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Send no more requests, so that the server can be stopped."""
        self._stopped.set()
        self._thread.join()

    def take_times_s(self) -> list[float]:
        """Return the sorted times of all answers since the start, or since the last call."""
        times_s, self._times_s = self._times_s, []
        return sorted(times_s)

    def take_longest_s(self) -> float:
        """Return the longest of `take_times_s`; 0 if there was no answer."""
        return max(self.take_times_s(), default=0.0)

    def _run(self) -> None:
        connection = connect(self._url)
        has_answered = False
        while not self._stopped.is_set():
            began_s = time.perf_counter()
            try:
                connection.request("GET", "/live")
                connection.getresponse().read()
            except OSError:
                if has_answered:
                    raise
                connection = connect(self._url)
            else:
                if has_answered:
                    self._times_s.append(time.perf_counter() - began_s)
                has_answered = True
                self._on_answer()
            time.sleep(_PAUSE_S)
