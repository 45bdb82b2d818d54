"""LiveProbe: asks a server for /live all the time, as whatever watches over it would, and notes how long it takes."""

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
    """Runs from `with` to its end. What is told begins with the first answer: before it the program is still being
    loaded, and a connection waits as it would be refused without a listener."""

    def __init__(self, url: str, on_answer: Callable[[], None] = lambda: None) -> None:
        """on_answer: called by the probe's thread after each."""
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
        """No more is asked from now on, so that the server may go."""
        self._stopped.set()
        self._thread.join()

    def take_times_s(self) -> list[float]:
        """Of all answers since the start, or since this was last asked, sorted."""
        times_s, self._times_s = self._times_s, []
        return sorted(times_s)

    def take_longest_s(self) -> float:
        """The longest of them; 0 if there was none."""
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
