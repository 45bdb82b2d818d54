"""LateBytes: limits on what a client still sends after the response to its request."""

import asyncio
from asyncio.events import TimerHandle
from collections.abc import Callable

_SILENCE_S = 5.0
_TOTAL_S = 30.0
_MAX_BYTES = 1 << 30  # usually enough to read the rest of a file that is too large for --max-file-bytes


class LateBytes:
    """Counts bytes after a response. Calls `on_silence` after 5 s without bytes, `on_limit` at a size or time limit."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_silence: Callable[[], None], on_limit: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._on_silence = on_silence
        self._on_limit = on_limit
        self._num_bytes = 0
        self._silence_timer: TimerHandle | None = None
        self._total_timer: TimerHandle | None = None

    @property
    def is_counting(self) -> bool:
        return self._total_timer is not None

    def begin(self, total_s: float = _TOTAL_S) -> None:
        self.stop()
        self._num_bytes = 0
        self._total_timer = self._loop.call_later(total_s, self._end, self._on_limit)
        self._silence_timer = self._loop.call_later(_SILENCE_S, self._end, self._on_silence)

    def note(self, num_bytes: int) -> None:
        """Count received bytes. No effect before `begin`, after `stop`, and once a callback was called."""
        if self._silence_timer is None:
            return
        self._silence_timer.cancel()
        self._num_bytes += num_bytes
        if self._num_bytes > _MAX_BYTES:
            self._end(self._on_limit)
        else:
            self._silence_timer = self._loop.call_later(_SILENCE_S, self._end, self._on_silence)

    def stop(self) -> None:
        for timer in (self._silence_timer, self._total_timer):
            if timer is not None:
                timer.cancel()
        self._silence_timer = self._total_timer = None

    def _end(self, call: Callable[[], None]) -> None:
        self.stop()
        call()
