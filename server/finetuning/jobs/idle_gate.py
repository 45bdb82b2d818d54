"""IdleGate: background processes are stopped while clients have work, and go on when they have none."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from server.config.finetuning import FinetuneYield
from server.finetuning.jobs.child import Child

_LOOK_S = 0.05
_IDLE_AFTER_S = 0.5  # between a client's answer and its next question a process is not worth waking


class IdleGate:
    """open --a request comes, or runs--> closed --none for a while--> open

    It closes within the call that tells of a request, and opens when it looks. Invariant: while it is closed, every
    process that was admitted is stopped. With another FinetuneYield than ALWAYS it never closes.
    """

    def __init__(
        self,
        is_busy: Callable[[], bool],
        yields: FinetuneYield,
        *,
        count_stopped: Callable[[float], None] = lambda _: None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        """is_busy: whether a request runs or waits. count_stopped: is told for how many seconds processes were."""
        self._is_busy = is_busy
        self._yields = yields is FinetuneYield.ALWAYS
        self._count_stopped = count_stopped
        self._now = now
        self._sleep = sleep
        self._children: set[Child] = set()
        self._busy_s = now()  # when there was work last
        self._counted_s = now()  # up to when it has been told how long they were stopped
        self._closed_s = 0.0
        self._num_waiting = 0  # that start a process when it opens
        self._needed = asyncio.Event()  # there is a process to stop or to start
        self._opened = asyncio.Event()
        if not self._yields:
            self._opened.set()

    @property
    def is_open(self) -> bool:
        return self._opened.is_set()

    @property
    def closed_s(self) -> float:
        """For how long it has been closed to processes that were there or waited for it, in all, so far."""
        self._count()
        return self._closed_s

    def note_request(self) -> None:
        """A request comes."""
        if self._yields:
            self._busy_s = self._now()
            if self.is_open:
                self._close()

    async def passed(self) -> None:
        """Return when it is open: a process that starts cannot be stopped yet."""
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
        """Within it the process is stopped while the gate is closed."""
        self._count()
        self._children.add(child)
        self._needed.set()
        if not self.is_open:
            child.stop()
        try:
            yield
        finally:
            self._count()
            self._children.discard(child)

    async def watch(self) -> None:
        """Look at what runs, while there is a process, until this is canceled; then nothing is stopped any more."""
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
        """Close or open it, as there is work."""
        if not self._yields:
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
            child.stop()

    def _open(self) -> None:
        self._count()
        self._opened.set()
        for child in self._children:
            child.go_on()

    def _count(self) -> None:
        now_s = self._now()
        if not self.is_open:
            if self._children or self._num_waiting:  # nobody looks otherwise, and it stays as it is
                self._closed_s += now_s - self._counted_s
            if self._children:
                self._count_stopped(now_s - self._counted_s)
        self._counted_s = now_s
