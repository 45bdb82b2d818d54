"""BatchWork: runs one batch, from the validation of its input to its end."""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from engine.errors import EngineStopped
from engine.wording import counted
from server.batches.answers import BATCH_CANCELLED, BATCH_EXPIRED, answer_line, error_line
from server.batches.lines import FaultyLine, Line
from server.batches.output import Output, OutputLost, Result, Storing
from server.batches.record import BatchRecord
from server.batches.slots import LineSlots
from server.batches.source import Source
from server.jobs.environment import JobEnvironment
from server.jobs.kind import JobWork
from server.jobs.persistence import RETRY_S
from server.live.pace import Pace
from server.schemas.batch_answers import BatchStatus, LineFault

logger = logging.getLogger(__name__)

_CLOSING_LINES = 1000  # lines that are closed at a time, when a batch ends before they were run
_DRAINED_S = 0.5  # between two looks at whether the server accepts work again


class BatchWork(JobWork[BatchRecord]):
    def __init__(self, record: BatchRecord, env: JobEnvironment, slots: Callable[[str | None], LineSlots]) -> None:
        """slots: returns the LineSlots of a model, by its name."""
        super().__init__(record)
        self._env = env
        self._slots = slots
        self._output = Output(env.files, record, self._clock)
        self._stop: BatchStatus | None = BatchStatus.CANCELLED if record.status is BatchStatus.CANCELLING else None
        self._is_late = record.is_late(env.files.clock())
        self._feeding: asyncio.Task[None] | None = None
        self._lines: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()  # there may be room for one more line
        self._storing = Storing(self._output, env, self._room.set)

    @property
    def owner(self) -> str:
        return self._output.record.owner

    @property
    def is_ending(self) -> bool:
        """Whether the batch was canceled or has expired, so that no more lines are run and only files are written."""
        return self._stop is not None or self._is_late

    @property
    def num_running(self) -> int:
        """The number of started lines that are not answered yet."""
        return len(self._lines)

    @property
    def _pace(self) -> Pace:
        return self._env.models.get_or_default(self._output.record.model).live.pace

    def _clock(self) -> float:
        return self._pace.batch_clock_s

    async def follow(self, record: BatchRecord | None, *, is_canceled: bool) -> bool:  # noqa: ARG002
        """Stop running lines if a client canceled the batch. Always returns True, so that `run` continues: it writes
        errors for the lines that were not run, and ends the batch."""
        if record is not None and record.status is BatchStatus.CANCELLING:
            self._end_early(BatchStatus.CANCELLED)
        return True

    def _end_early(self, status: BatchStatus) -> None:
        if self._stop is None:
            self._stop = status
            if self._feeding is not None:
                self._feeding.cancel()

    async def run(self) -> None:
        """Run the batch to its end. Failed writes are retried."""
        try:
            await self._storing.persist(self._output.recover)
            await self._run()
        except OutputLost as error:
            await self._fail([LineFault("output_lost", str(error))])
        except asyncio.CancelledError:
            await self._storing.try_once()
            raise
        record = self._output.record
        if record.errors:
            first = record.errors[0]  # not its message, which quotes the file
            where = "" if first.line is None else f" in line {first.line}"
            logger.warning("batch %s is %s: %s%s", record.id, record.status.value, first.code, where)
            return
        logger.info(
            "batch %s is %s: %s, %d answered, %d failed",
            *(record.id, record.status.value, counted(record.total, "line"), record.completed, record.failed),
        )

    async def _run(self) -> None:
        try:
            if await self._validate():
                await self._answer_all()
        except FaultyLine as error:  # after a server with other limits, or other files: the input was checked once
            await self._storing.flush()
            faults = [error.fault]
            await self._storing.persist(lambda: self._output.finish(BatchStatus.FAILED, faults))

    # --- input --------------------------------------------------------------------------------------------------------

    def _source(self) -> Source:
        record, env = self._output.record, self._env
        return Source(
            env.files,
            record.input_file_id,
            record.endpoint,
            max_line_bytes=env.context.config.max_request_bytes,
            sleep=env.sleep,
        )

    async def _validate(self) -> bool:
        """Validate the input unless that was done before; return False if the input is invalid and the batch has
        failed."""
        record = self._output.record
        if record.output_name is not None:
            return True
        checked = await self._source().check(max_lines=self._env.context.config.storage.max_batch_requests)
        if checked.faults:
            await self._fail(checked.faults)
            return False
        model = checked.model or self._env.models.default.name
        await self._storing.persist(lambda: self._output.begin(total=checked.num_lines, model=model))
        return True

    async def _fail(self, faults: list[LineFault]) -> None:
        def edit(record: BatchRecord) -> None:
            record.errors = faults
            record.output_name = record.error_name = None
            record.enter(BatchStatus.FAILED, self._env.files.clock())

        await self._storing.persist(lambda: self._output.journal.try_change(edit))

    # --- lines --------------------------------------------------------------------------------------------------------

    async def _answer_all(self) -> None:
        """Run each line, or write its error if the batch ends early; then end the batch."""
        while self._output.record.status is not BatchStatus.FINALIZING:
            done = await self._storing.persist(self._output.done)
            if len(done) == self._output.record.total:
                await self._storing.persist(self._finalize)
                break
            if self._stop is not None:
                await self._close(self._stop, done)
                continue
            storing = asyncio.create_task(self._storing.run(), name=f"storing {self.id}")
            try:
                with self._pace.running(self.id):
                    await self._run_lines(done)
            finally:
                await _cancel([storing])
            await self._storing.flush()
        await self._storing.persist(self._finish)

    async def _finalize(self) -> None:
        """Set the status to FINALIZING, except for a batch that was canceled or has expired: its next status is the
        final one."""
        stop, now_s = self._stop, self._env.files.clock()

        def edit(record: BatchRecord) -> None:
            if stop is None and record.status is not BatchStatus.CANCELLING:
                record.enter(BatchStatus.FINALIZING, now_s)

        await self._output.journal.try_change(edit)

    async def _finish(self) -> None:
        is_cancelled = self._output.record.status is BatchStatus.CANCELLING
        end = BatchStatus.CANCELLED if is_cancelled else self._stop or BatchStatus.COMPLETED
        await self._output.finish(end)

    async def _run_lines(self, done: set[bytes]) -> None:
        """Run the lines that are not in `done` until all are answered, or the batch is canceled or expires."""
        left_s = self._output.record.expires_at - self._env.files.clock()
        self._feeding = asyncio.create_task(self._feed(done), name=f"feeding {self.id}")
        expiry = asyncio.get_running_loop().call_later(max(0.0, left_s), self._end_early, BatchStatus.EXPIRED)
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(self._feeding)
            if asyncio.current_task().cancelling():  # type: ignore[union-attr] # the server ends, and not the batch
                raise asyncio.CancelledError
        finally:
            expiry.cancel()
            await _cancel([self._feeding, *self._lines])

    async def _feed(self, done: set[bytes]) -> None:
        slots = self._slots(self._output.record.model)
        async for window in self._source().windows(done):
            for line in window:
                await self._wait_for_room(slots)
                await slots.acquire(self.id)
                task = asyncio.create_task(self._answer(line, slots), name=f"line {line.number} of {self.id}")
                self._lines.add(task)
                task.add_done_callback(self._end_line)
        while self._lines:
            await asyncio.wait(self._lines)

    async def _wait_for_room(self, slots: LineSlots) -> None:
        """Wait until one more line may start. Lines that sleep before a retry count toward the limit."""
        while self._env.context.drain.is_active:
            await self._env.sleep(_DRAINED_S)
        while self._storing.is_full or len(self._lines) >= slots.limit:
            self._room.clear()
            await self._room.wait()

    def _end_line(self, task: asyncio.Task[None]) -> None:
        self._lines.discard(task)
        self._room.set()

    async def _answer(self, line: Line, slots: LineSlots) -> None:
        """Run one line in the slot that it holds, and release the slot."""
        has_slot = True

        async def sleep(seconds: float) -> None:
            """Sleep without the slot, so that other lines can use it."""
            nonlocal has_slot
            has_slot = False
            slots.release(self.id)
            await self._env.sleep(seconds)
            await slots.acquire(self.id)
            has_slot = True

        try:
            while (caller := self._env.find_caller(self.owner)) is None:
                await sleep(RETRY_S)
            answer = await self._env.answer(caller, self._output.record.endpoint, line.body, sleep)
        except EngineStopped:  # the next server answers the line
            return
        finally:
            if has_slot:
                slots.release(self.id)
        data = answer_line(line.custom_id, answer)
        self._storing.add(Result(data, answer.is_completed, answer.usage))

    async def _close(self, status: BatchStatus, done: set[bytes]) -> None:
        """Write an error line for each line that is not in `done`. status: CANCELLED or EXPIRED, the reason."""
        code, message = _CLOSED[status]
        closed: list[Result] = []

        async def store() -> None:
            await self._output.add(closed)
            self._env.metrics.add("batch_lines_total", len(closed), status.value)
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


async def _cancel(tasks: "list[asyncio.Task[None]]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
