"""Job: one batch, from its input to its end, in one task that may be ended at any moment and begun again."""

import asyncio
import contextlib
import logging

from engine.errors import EngineStopped
from engine.wording import counted
from server.batches.answers import BATCH_CANCELLED, BATCH_EXPIRED, answer_line, error_line
from server.batches.lines import FaultyLine, Line
from server.batches.output import Output, OutputLost, Result
from server.batches.places import Places
from server.batches.record import BatchRecord
from server.batches.source import Source
from server.batches.storing import RETRY_S, Storing
from server.batches.surroundings import Surroundings
from server.schemas.batch_answers import BatchStatus, LineFault

logger = logging.getLogger(__name__)

_CLOSING_LINES = 1000  # that are closed at a time, when a batch ends before they were run


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
        self._room = asyncio.Event()  # there may be room for one more line
        self._storing = Storing(self._output, surroundings, self._room.set)

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
            await self._storing.persist(self._output.recover)
            await self._run()
        except OutputLost as error:
            await self._fail([LineFault("output_lost", str(error))])
        except asyncio.CancelledError:
            await self._storing.try_once()
            raise
        record = self._output.record
        logger.info(
            "batch %s is %s: %s, %d answered, %d failed",
            *(record.id, record.status.value, counted(record.total, "line"), record.completed, record.failed),
        )

    async def _run(self) -> None:
        try:
            if await self._validated():
                await self._answer_all()
        except FaultyLine as error:  # after a server with other limits, or other files: the input was checked once
            await self._storing.flush()
            faults = [error.fault]
            await self._storing.persist(lambda: self._output.finish(BatchStatus.FAILED, faults))

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
        await self._storing.persist(lambda: self._output.begin(total=checked.num_lines, model=model))
        return True

    async def _fail(self, faults: list[LineFault]) -> None:
        def edit(record: BatchRecord) -> None:
            record.errors = faults
            record.output_name = record.error_name = None
            record.enter(BatchStatus.FAILED, self._around.files.clock())

        await self._storing.persist(lambda: self._output.change(edit))

    # --- lines --------------------------------------------------------------------------------------------------------

    async def _answer_all(self) -> None:
        """Until each line is in one of the files, and no sooner."""
        while self._output.record.status is not BatchStatus.FINALIZING:
            done = await self._done()
            if len(done) == self._output.record.total:
                await self._storing.persist(self._finalizing)
                break
            if self._stop is not None:
                await self._close(self._stop, done)
                continue
            storing = asyncio.create_task(self._storing.run(), name=f"storing {self.id}")
            try:
                await self._run_lines(done)
            finally:
                await _ended([storing])
            await self._storing.flush()
        await self._storing.persist(self._finish)

    async def _done(self) -> set[bytes]:
        done: set[bytes] = set()

        async def read() -> None:
            done.update(await self._output.done())

        await self._storing.persist(read)
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
        while self._storing.is_full or len(self._lines) >= places.limit:
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
                await sleep(RETRY_S)
            answer = await self._around.run_body(caller, self._output.record.endpoint, line.body, sleep)
        except EngineStopped:  # the next server answers it
            return
        finally:
            if has_place:
                places.give_back(self.id)
        data = answer_line(line.custom_id, answer)
        self._storing.add(Result(data, answer.is_completed, answer.usage))

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
                await self._storing.persist(store)
        if closed:
            await self._storing.persist(store)


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
