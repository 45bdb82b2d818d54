"""Run: one stream that goes on without its readers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from server.errors import StreamStopped
from server.runs.event_log import EventLog, event_size

_SENT_AT_ONCE_BYTES = 64 * 1024  # to a reader that is behind


class Form(Protocol):
    """What a protocol's streams have in common."""

    @property
    def media_type(self) -> str: ...
    @property
    def ping(self) -> bytes: ...
    @property
    def end(self) -> bytes: ...


class Memory(Protocol):
    """What all logs share."""

    def take(self, size: int) -> bool:
        """Whether `size` more bytes may be held; they count from then on."""

    def take_anyway(self, size: int) -> None: ...

    def give_back(self, size: int) -> None: ...


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What kind of stream it is."""

    id: str
    owner: str  # who may read it
    route: str  # whose stream it is; a request to another one does not get it
    form: Form
    broken: Callable[[Exception], bytes]  # the event that ends the stream when an error breaks it off
    cut: Callable[[Exception], bytes]  # the last event of a reader whose next ones are no longer held
    waits_for_readers: bool  # with a full memory, rather than dropping what they have not got
    headers: dict[str, str]  # of every response that streams it
    subject: object = None  # what its feature finds it again for


class Reader:
    """One client's place in a run's log: it has the events up to number `read`."""

    def __init__(self, run: "Run", read: int) -> None:
        self.read = read
        self._run = run

    async def __aiter__(self) -> AsyncIterator[list[bytes]]:
        """Batches of events to the stream's end. Those of a batch count as read when the next one is asked for.

        Raises EventsDropped, and what ended the run before its first event.
        """
        log = self._run.log
        while True:
            await log.changed(self.read)
            events = log.after(self.read, _SENT_AT_ONCE_BYTES)
            if not events and self._run.failure is not None:
                raise self._run.failure
            if not events:
                return
            yield events
            self.read += len(events)
            self._run.on_read()


class Run:
    """A task that writes a stream's events to a log, within a memory that all runs share.

    With a full memory it drops what each of its readers has, and waits for readers that are behind or away, unless it
    is one that waits for nobody. One event is always held, whatever the memory says, so that no run stands still for
    good.
    """

    def __init__(self, options: RunOptions, memory: Memory, on_change: Callable[["Run"], None]) -> None:
        """on_change is called when a reader comes or goes, and when the run ends."""
        self.options = options
        self.log = EventLog()
        self.failure: Exception | None = None  # what ended it before its first event
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
        """Begin to write `events`. When they end, or the run is stopped, `source` is closed."""
        self._source = source
        self._task = asyncio.create_task(self._write(events, source), name=self.id)

    def cancel(self) -> None:
        """Write nothing more. `ended` tells when what feeds the run is closed too."""
        assert self._task is not None
        self._task.cancel()

    async def ended(self) -> None:
        """Wait until no event comes any more and what fed the run is closed."""
        assert self._task is not None
        await asyncio.wait({self._task})
        if not self.log.has_ended:  # the task was canceled before it began
            self.log.end()
            await self._source.aclose()

    @contextlib.contextmanager
    def reader(self, after: int) -> Iterator[Reader]:
        """A reader of the events behind number `after`. While there is one, the run goes on."""
        reader = Reader(self, after)
        self._readers.add(reader)
        self.on_read()  # a run that waits for readers looks again
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
        while not self._memory.take(size):
            if self._can_drop():
                self._memory.give_back(self.log.drop_oldest())
            elif self.log.num_dropped == self.log.num_events:
                self._memory.take_anyway(size)
                break
            else:
                self._was_read.clear()
                await self._was_read.wait()
        self.log.append(event)

    def _can_drop(self) -> bool:
        """Whether the oldest event that is held may go."""
        if self.log.num_dropped == self.log.num_events:
            return False
        if not self.options.waits_for_readers:
            return True
        return bool(self._readers) and min(reader.read for reader in self._readers) > self.log.num_dropped
