"""IdleGate: suspends child processes while clients have work."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from server.jobs.child import Child

_LOOK_S = 0.05
_IDLE_AFTER_S = 0.5  # between a client's answer and its next question a process is not worth waking


class IdleGate:
    """A gate that is closed while requests run or wait, and for half a second after.

    `note_request` closes the gate immediately; `look` opens it. Invariant: while the gate is closed, every process that
    was admitted is suspended. A gate that is not active never closes.
    """

    def __init__(
        self,
        is_busy: Callable[[], bool],
        *,
        is_active: bool,
        count_suspended: Callable[[float], None] = lambda _: None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        """is_busy: whether a request runs or waits. count_suspended: adds seconds of suspended time to a total."""
        self._is_busy = is_busy
        self._is_active = is_active
        self._count_suspended = count_suspended
        self._now = now
        self._sleep = sleep
        self._children: set[Child] = set()
        self._busy_s = now()  # when there was work last
        self._counted_s = now()  # the end of the time that was counted
        self._closed_s = 0.0
        self._num_waiting = 0  # tasks that start a process when the gate opens
        self._needed = asyncio.Event()  # there is a process to suspend or to start
        self._opened = asyncio.Event()
        if not is_active:
            self._opened.set()

    @property
    def is_open(self) -> bool:
        return self._opened.is_set()

    @property
    def closed_s(self) -> float:
        """Total seconds for which the gate was closed while a process was admitted or waited to start."""
        self._count()
        return self._closed_s

    def note_request(self) -> None:
        """Close the gate, since a request has arrived."""
        if self._is_active:
            self._busy_s = self._now()
            if self.is_open:
                self._close()

    async def wait_until_open(self) -> None:
        """Wait until the gate is open. Call before starting a process: while it starts, it cannot be suspended."""
        self.look()
        self._num_waiting += 1
        self._needed.set()
        try:
            while not self.is_open:
                await self._opened.wait()
        finally:
            self._count()
            self._num_waiting -= 1

    @contextlib.contextmanager
    def admitted(self, child: Child) -> Iterator[None]:
        """Suspend the process whenever the gate is closed, until the context ends."""
        self._count()
        self._children.add(child)
        self._needed.set()
        if not self.is_open:
            child.suspend()
        try:
            yield
        finally:
            self._count()
            self._children.discard(child)

    async def watch(self) -> None:
        """Call `look` regularly while there are processes, until canceled; then all processes are resumed."""
        try:
            while True:
                if not self._children and not self._num_waiting:
                    self._needed.clear()
                    await self._needed.wait()
                self.look()
                await self._sleep(_LOOK_S)
        finally:
            self._open()

    def look(self) -> None:
        """Close or open the gate, depending on whether requests run or wait."""
        if not self._is_active:
            return
        self._count()
        if self._is_busy():
            self.note_request()
        elif not self.is_open and self._now() - self._busy_s >= _IDLE_AFTER_S:
            self._open()

    def _close(self) -> None:
        self._count()
        self._opened.clear()
        for child in self._children:
            child.suspend()

    def _open(self) -> None:
        self._count()
        self._opened.set()
        for child in self._children:
            child.resume()

    def _count(self) -> None:
        now_s = self._now()
        if not self.is_open:
            if self._children or self._num_waiting:  # without these a closed gate is not looked at, and stays closed
                self._closed_s += now_s - self._counted_s
            if self._children:
                self._count_suspended(now_s - self._counted_s)
        self._counted_s = now_s
