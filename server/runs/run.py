"""Run: one resumable stream, which continues while no client reads it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from server.errors import StreamStopped
from server.runs.event_log import EventLog, event_size

_SENT_AT_ONCE_BYTES = 64 * 1024  # to a reader that is behind


class RunForm(Protocol):
    """Properties that all streams of one protocol share."""

    @property
    def media_type(self) -> str: ...
    @property
    def ping(self) -> bytes: ...
    @property
    def end(self) -> bytes: ...


class Memory(Protocol):
    """The memory budget that the logs of all runs share."""

    def try_reserve(self, size: int) -> bool:
        """Reserve `size` more bytes; return False if the budget does not allow it."""

    def reserve(self, size: int) -> None:
        """Reserve `size` more bytes, even beyond the budget."""

    def release(self, size: int) -> None: ...


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Options of one run: its id and owner, its form, and its behavior on errors and when memory is short."""

    id: str
    owner: str  # owner id of the only key that may read the stream
    route: str  # route that made the stream; other routes do not find it
    form: RunForm
    broken: Callable[[Exception], bytes]  # returns the event that ends the stream after an error
    cut: Callable[[Exception], bytes]  # returns the last event for a reader whose next events are no longer held
    waits_for_readers: bool  # if memory is full; False: unread events are dropped
    headers: dict[str, str]  # HTTP headers of every response with the stream
    subject: object = None  # object by which the feature that started the run finds it


class Reader:
    """One client that reads a run's log. read: the number of the last event that the client has read."""

    def __init__(self, run: "Run", read: int) -> None:
        self.read = read
        self._run = run

    async def __aiter__(self) -> AsyncIterator[list[bytes]]:
        """Yield the events in batches, to the end of the stream. A batch counts as read when the next one is requested.

        Raises EventsDropped if an unread event was dropped, or the error that ended the run before its first event.
        """
        log = self._run.log
        while True:
            await log.wait_after(self.read)
            events = log.after(self.read, _SENT_AT_ONCE_BYTES)
            if not events and self._run.failure is not None:
                raise self._run.failure
            if not events:
                return
            yield events
            self.read += len(events)
            self._run.on_read()


class Run:
    """A task that writes a stream's events to a log, within a memory budget that all runs share.

    When the budget is used up, the run drops events that all its readers have read, and then waits for readers that are
    behind or disconnected; without `options.waits_for_readers` it drops unread events instead. The log may always hold
    one event, even beyond the budget, so that every run makes progress.
    """

    def __init__(self, options: RunOptions, memory: Memory, on_change: Callable[["Run"], None], grace_s: float) -> None:
        """on_change: called when a reader connects or leaves, and when the run ends. grace_s: seconds for which the run
        is kept without a reader."""
        self.options = options
        self.grace_s = grace_s
        self.log = EventLog()
        self.failure: Exception | None = None  # that ended the run before its first event
        self._memory = memory
        self._on_change = on_change
        self._source = contextlib.AsyncExitStack()
        self._readers: set[Reader] = set()
        self._was_read = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def id(self) -> str:
        return self.options.id

    @property
    def has_readers(self) -> bool:
        return bool(self._readers)

    def start(self, events: AsyncIterator[bytes], source: contextlib.AsyncExitStack) -> None:
        """Start writing `events`. `source` is closed when they end or the run is canceled."""
        self._source = source
        self._task = asyncio.create_task(self._write(events, source), name=self.id)

    def cancel(self) -> None:
        """Cancel the task. To wait until the source is closed, call `wait_until_ended`."""
        assert self._task is not None
        self._task.cancel()

    async def wait_until_ended(self) -> None:
        """Wait until the run has ended and its source is closed."""
        assert self._task is not None
        await asyncio.wait({self._task})
        if not self.log.has_ended:  # the task was canceled before it started
            self.log.end()
            await self._source.aclose()

    @contextlib.contextmanager
    def reader(self, after: int) -> Iterator[Reader]:
        """Return a context with a reader of the events after event `after`. The run is not removed within the
        context."""
        reader = Reader(self, after)
        self._readers.add(reader)
        self.on_read()  # a run that waits for its readers checks again
        self._on_change(self)
        try:
            yield reader
        finally:
            self._readers.remove(reader)
            self.on_read()
            self._on_change(self)

    def on_read(self) -> None:
        self._was_read.set()

    async def _write(self, events: AsyncIterator[bytes], source: contextlib.AsyncExitStack) -> None:
        try:
            async with source:
                try:
                    async for event in events:
                        await self._append(event)
                except Exception as error:  # noqa: BLE001 - the route boundary, inside a stream
                    if self.log.num_events == 0:
                        self.failure = error
                        return
                    await self._append(self.options.broken(error))
                if self.options.form.end:
                    await self._append(self.options.form.end)
        except asyncio.CancelledError:
            if self._readers:
                self.log.append(self.options.broken(StreamStopped("the stream was deleted")))
            raise
        finally:
            self.log.end()
            self._on_change(self)

    async def _append(self, event: bytes) -> None:
        size = event_size(event)
        while not self._memory.try_reserve(size):
            if self._can_drop():
                self._memory.release(self.log.drop_oldest())
            elif self.log.num_dropped == self.log.num_events:
                self._memory.reserve(size)
                break
            else:
                self._was_read.clear()
                await self._was_read.wait()
        self.log.append(event)

    def _can_drop(self) -> bool:
        if self.log.num_dropped == self.log.num_events:
            return False
        if not self.options.waits_for_readers:
            return True
        return bool(self._readers) and min(reader.read for reader in self._readers) > self.log.num_dropped
