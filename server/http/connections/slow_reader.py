"""SlowReader: detects a client that does not read although bytes wait to be sent."""

import asyncio
from asyncio.events import TimerHandle
from collections.abc import Callable


class SlowReader:
    """Calls `on_stuck` if the transport's write buffer has not shrunk within `limit_s`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        limit_s: float,
        on_stuck: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._transport = transport
        self._limit_s = limit_s
        self._on_stuck = on_stuck
        self._unsent_bytes = 0  # when the timer was set
        self._timer: TimerHandle | None = None

    def begin(self) -> None:
        self.stop()
        self._unsent_bytes = self._transport.get_write_buffer_size()
        self._timer = self._loop.call_later(self._limit_s, self._look)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        if self._transport.get_write_buffer_size() < self._unsent_bytes:  # slow, but not stuck
            self.begin()
        else:
            self._on_stuck()
