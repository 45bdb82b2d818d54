"""Job: one batch, from its input to its end, in one task that may be ended at any moment and begun again."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from engine.errors import EngineStopped
from server.batches.answers import BATCH_CANCELLED, BATCH_EXPIRED, LineAnswer, answer_line, error_line
from server.batches.lines import FaultyLine, Line
from server.batches.output import Output, OutputLost, Result
from server.batches.places import Places
from server.batches.record import BatchRecord
from server.batches.source import Source
from server.errors import StorageFailed
from server.files.store import Files
from server.keys.caller import Caller
from server.schemas.batch_answers import BatchStatus, LineFault

logger = logging.getLogger(__name__)

_MAX_UNSTORED = 512  # answers that wait to be stored; then no line is begun
_STORE_INTERVAL_S = 0.2  # at least from one storing to the next: each syncs
_RETRY_S = 5.0  # after a disk that failed, or for a key that is gone
_CLOSING_LINES = 1000  # that are closed at a time, when a batch ends before they were run

Sleep = Callable[[float], Awaitable[Any]]
RunBody = Callable[[Caller, str, dict[str, Any], Sleep], Awaitable[LineAnswer]]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all jobs of a server share.

    run_body: answers the body of a line for a caller, by an endpoint, and is given what to wait with. It raises
    EngineStopped where the server ends before. find_caller: of a batch's owner; None while its key is not accepted.
    count: is told what became of so many lines.
    """

    files: Files
    run_body: RunBody
    find_caller: Callable[[str], Caller | None]
    places: Callable[[str | None], Places]
    may_feed: Callable[[], bool]
    count: Callable[[str, int], None]
    default_model: str  # that a line means which names none
    max_lines: int
    max_line_bytes: int
    sleep: Sleep = asyncio.sleep


class Job:
    """Ends as `run` returns; a task that is canceled within it leaves a batch that goes on later."""

    def __init__(self, record: BatchRecord, surroundings: Surroundings) -> None:
        self.id = record.id
        self._around = surroundings
        self._output = Output(surroundings.files, record)
        self._stop: BatchStatus | None = BatchStatus.CANCELLED if record.status is BatchStatus.CANCELLING else None
        self._is_late = record.is_late(surroundings.files.clock())
        self._feeding: asyncio.Task[None] | None = None
        self._lines: set[asyncio.Task[None]] = set()
        self._unstored: list[Result] = []
        self._news = asyncio.Event()  # there is something to store, or nothing will come any more
        self._room = asyncio.Event()  # there may be room for one more line

    @property
    def owner(self) -> str:
        return self._output.record.owner

    @property
    def is_ending(self) -> bool:
        """No more lines are run: what is left needs the disk alone."""
        return self._stop is not None or self._is_late

    @property
    def num_running(self) -> int:
        """Lines that are begun and not answered."""
        return len(self._lines)

    def cancel(self) -> None:
        """Have what is not answered closed; the batch ends as canceled."""
        self._end_early(BatchStatus.CANCELLED)

    def _end_early(self, status: BatchStatus) -> None:
        if self._stop is None:
            self._stop = status
            if self._feeding is not None:
                self._feeding.cancel()

    async def run(self) -> None:
        """Bring the batch to its end. A disk that fails is waited for."""
        try:
            await self._persist(self._output.recover)
            await self._run()
        except OutputLost as error:
            await self._fail([LineFault("output_lost", str(error))])
        except asyncio.CancelledError:
            if self._unstored:
                with contextlib.suppress(StorageFailed):
                    await self._store_some()
            raise
        record = self._output.record
        logger.info(
            "batch %s is %s: %d lines, %d answered, %d failed",
            *(record.id, record.status.value, record.total, record.completed, record.failed),
        )

    async def _run(self) -> None:
        try:
            if await self._validated():
                await self._answer_all()
        except FaultyLine as error:  # after a server with other limits, or other files: the input was checked once
            while self._unstored:
                await self._persist(self._store_some)
            faults = [error.fault]
            await self._persist(lambda: self._output.finish(BatchStatus.FAILED, faults))

    async def _persist(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do it until the disk takes it. An attempt that has begun goes on though this is canceled: else nobody would
        know what became of it."""
        has_failed = False
        while True:
            attempt = asyncio.ensure_future(work())
            try:
                return await asyncio.shield(attempt)
            except StorageFailed as error:
                if not has_failed:
                    logger.warning("batch %s waits for the disk: %s", self.id, error)
                has_failed = True
            except asyncio.CancelledError:
                await asyncio.wait([attempt])
                _ = attempt.exception()  # which is of no use any more
                raise
            await self._around.sleep(_RETRY_S)

    # --- input --------------------------------------------------------------------------------------------------------

    def _source(self) -> Source:
        record, around = self._output.record, self._around
        return Source(
            around.files,
            record.input_file_id,
            record.endpoint,
            max_line_bytes=around.max_line_bytes,
            sleep=around.sleep,
        )

    async def _validated(self) -> bool:
        """Whether the batch has lines to answer; it has ended otherwise."""
        record = self._output.record
        if record.output_name is not None:
            return True
        checked = await self._source().check(max_lines=self._around.max_lines)
        if checked.faults:
            await self._fail(checked.faults)
            return False
        model = checked.model or self._around.default_model
        await self._persist(lambda: self._output.begin(total=checked.num_lines, model=model))
        return True

    async def _fail(self, faults: list[LineFault]) -> None:
        def edit(record: BatchRecord) -> None:
            record.errors = faults
            record.output_name = record.error_name = None
            record.enter(BatchStatus.FAILED, self._around.files.clock())

        await self._persist(lambda: self._output.change(edit))

    # --- lines --------------------------------------------------------------------------------------------------------

    async def _answer_all(self) -> None:
        """Until each line is in one of the files, and no sooner."""
        while self._output.record.status is not BatchStatus.FINALIZING:
            done = await self._done()
            if len(done) == self._output.record.total:
                await self._persist(self._finalizing)
                break
            if self._stop is not None:
                await self._close(self._stop, done)
                continue
            storing = asyncio.create_task(self._store(), name=f"storing {self.id}")
            try:
                await self._run_lines(done)
            finally:
                await _ended([storing])
            while self._unstored:
                await self._persist(self._store_some)
        await self._persist(self._finish)

    async def _done(self) -> set[bytes]:
        done: set[bytes] = set()

        async def read() -> None:
            done.update(await self._output.done())

        await self._persist(read)
        return done

    async def _finalizing(self) -> None:
        """All lines are answered. Who ended the batch early, or tried to, sees it end so."""
        stop, now_s = self._stop, self._around.files.clock()

        def edit(record: BatchRecord) -> None:
            if stop is None and record.status is not BatchStatus.CANCELLING:
                record.enter(BatchStatus.FINALIZING, now_s)

        await self._output.change(edit)

    async def _finish(self) -> None:
        is_cancelled = self._output.record.status is BatchStatus.CANCELLING
        end = BatchStatus.CANCELLED if is_cancelled else self._stop or BatchStatus.COMPLETED
        await self._output.finish(end)

    async def _run_lines(self, done: set[bytes]) -> None:
        """Run what is not done, until all was, or the batch is to end."""
        left_s = self._output.record.expires_at - self._around.files.clock()
        self._feeding = asyncio.create_task(self._feed(done), name=f"feeding {self.id}")
        expiry = asyncio.get_running_loop().call_later(max(0.0, left_s), self._end_early, BatchStatus.EXPIRED)
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(self._feeding)
            if asyncio.current_task().cancelling():  # type: ignore[union-attr] # the server ends, and not the batch
                raise asyncio.CancelledError
        finally:
            expiry.cancel()
            await _ended([self._feeding, *self._lines])

    async def _feed(self, done: set[bytes]) -> None:
        around = self._around
        places = around.places(self._output.record.model)
        async for window in self._source().windows(done):
            for line in window:
                await self._wait_for_room(places)
                await places.take(self.id)
                task = asyncio.create_task(self._answer(line, places), name=f"line {line.number} of {self.id}")
                self._lines.add(task)
                task.add_done_callback(self._line_ended)
        while self._lines:
            await asyncio.wait(self._lines)

    async def _wait_for_room(self, places: Places) -> None:
        """Return when one more line may be begun. Those that wait have no place, and still count."""
        around = self._around
        while not around.may_feed():
            await around.sleep(0.5)
        while len(self._unstored) >= _MAX_UNSTORED or len(self._lines) >= places.limit:
            self._room.clear()
            await self._room.wait()

    def _line_ended(self, task: asyncio.Task[None]) -> None:
        self._lines.discard(task)
        self._room.set()

    async def _answer(self, line: Line, places: Places) -> None:
        """Run one line, in its place."""
        has_place = True

        async def sleep(seconds: float) -> None:
            """Leave the place to others meanwhile."""
            nonlocal has_place
            has_place = False
            places.give_back(self.id)
            await self._around.sleep(seconds)
            await places.take(self.id)
            has_place = True

        try:
            while (caller := self._around.find_caller(self.owner)) is None:
                await sleep(_RETRY_S)
            answer = await self._around.run_body(caller, self._output.record.endpoint, line.body, sleep)
        except EngineStopped:  # the next server answers it
            return
        finally:
            if has_place:
                places.give_back(self.id)
        data = answer_line(line.custom_id, answer)
        self._add(Result(data, answer.is_completed, answer.usage))

    # --- answers ------------------------------------------------------------------------------------------------------

    def _add(self, result: Result) -> None:
        self._unstored.append(result)
        self._news.set()

    async def _store(self) -> None:
        """Store answers as they come, until canceled."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._unstored:
                await self._persist(self._store_some)
                await self._around.sleep(_STORE_INTERVAL_S)

    async def _store_some(self) -> None:
        results = self._unstored[:_MAX_UNSTORED]
        await self._output.add(results)
        del self._unstored[: len(results)]
        self._room.set()
        num_completed = sum(each.is_completed for each in results)
        self._around.count("completed", num_completed)
        self._around.count("failed", len(results) - num_completed)

    async def _close(self, status: BatchStatus, done: set[bytes]) -> None:
        """Say of each line that is not done why it has no answer."""
        code, message = _CLOSED[status]
        closed: list[Result] = []

        async def store() -> None:
            await self._output.add(closed)
            self._around.count(status.value, len(closed))
            closed.clear()

        async for window in self._source().windows(done):
            closed += [Result(error_line(line.custom_id, code, message), is_completed=False) for line in window]
            if len(closed) >= _CLOSING_LINES:
                await self._persist(store)
        if closed:
            await self._persist(store)


_CLOSED = {
    BatchStatus.EXPIRED: (
        BATCH_EXPIRED,
        "the request could not be run before the end of the batch's completion window",
    ),
    BatchStatus.CANCELLED: (BATCH_CANCELLED, "the batch was canceled before the request was run"),
}


async def _ended(tasks: "list[asyncio.Task[None]]") -> None:
    """Cancel the tasks and wait for their end."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
