"""LiveProbe: asks a server for /live all the time, as whatever watches over it would, and notes the longest answer."""

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
    """Runs from `with` to its end, from the first answer on; before that nobody listens yet."""

    def __init__(self, url: str, on_answer: Callable[[], None] = lambda: None) -> None:
        """on_answer: called by the probe's thread after each."""
        self._url = url
        self._on_answer = on_answer
        self._longest_s = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "LiveProbe":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """No more is asked from now on, so that the server may go."""
        self._stopped.set()
        self._thread.join()

    def take_longest_s(self) -> float:
        """The longest answer since the start, or since this was last asked."""
        longest_s, self._longest_s = self._longest_s, 0.0
        return longest_s

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
                has_answered = True
                self._longest_s = max(self._longest_s, time.perf_counter() - began_s)
                self._on_answer()
            time.sleep(_PAUSE_S)
