"""Output: the output and error files of one batch, with each answer exactly once.

    append to the committed bytes -> sync -> store the new committed size -> ... -> hand the files to the owner

If the server ends between two steps, the committed bytes are intact, and the bytes after them are overwritten.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from sqlite3 import Connection
from typing import Any, TypeVar

import msgspec

from server.batches.record import BATCHES, BatchRecord
from server.batches.source import digest_of
from server.errors import StorageFailed
from server.files import table as file_table
from server.files.store import Files, new_file_id
from server.files.table import File
from server.jobs.answers import AnswerUsage
from server.jobs.environment import JobEnvironment
from server.jobs.journal import Journal
from server.jobs.persistence import persist
from server.schemas.batch_answers import BatchStatus, LineFault
from server.schemas.files import BATCH_OUTPUT

T = TypeVar("T")

_CHUNK_BYTES = 1 << 20
_MAX_UNSTORED = 512  # answers that wait to be stored; at that number no line starts
_STORE_INTERVAL_S = 0.2  # between two writes, since each is synced
_MAX_UNSTORED_S = 2.0  # for which answers wait to be stored while clients have work


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one line. data: the line to write to the output file, or to the error file if not completed."""

    data: bytes
    is_completed: bool
    usage: AnswerUsage = field(default_factory=AnswerUsage)


class OutputLost(Exception):
    """An output file is shorter than its committed size, so something other than this server changed it."""


class _Answered(msgspec.Struct):
    custom_id: str


_decode = msgspec.json.Decoder(_Answered).decode


def _digests(lines: list[bytes]) -> set[bytes]:
    return {digest_of(_decode(line).custom_id) for line in lines}


class Output:
    """The output and error files of one batch. Every method may raise StorageFailed, and can be retried."""

    def __init__(self, files: Files, record: BatchRecord, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds, which stand still while the batch does."""
        self.journal = Journal(files, BATCHES, record)
        self._files = files
        self._clock = clock
        self._counted_s: float | None = None  # time of the clock up to which the record's active_s counts

    @property
    def record(self) -> BatchRecord:
        """The stored record of the batch, perhaps without the latest changes by clients."""
        return self.journal.record

    async def begin(self, *, total: int, model: str | None) -> None:
        """Create the output and error files, and set the batch to IN_PROGRESS."""
        names = self.record.unfinished_files or [new_file_id(), new_file_id()]
        self._files.writing.update(names)  # until the batch has them
        try:
            for name in names:
                await self._files.on_disk(self._files.disk.create, name)
            await self._files.on_disk(self._files.disk.sync_names)

            def edit(record: BatchRecord) -> None:
                record.output_name, record.error_name = names
                record.total, record.model = total, model
                if record.status is BatchStatus.VALIDATING:
                    record.enter(BatchStatus.IN_PROGRESS, self._files.clock())

            await self.journal.try_change(edit)
            self._counted_s = self._clock()
        finally:
            self._files.writing.difference_update(names)

    async def recover(self) -> None:
        """Truncate both files to their committed sizes. Raises OutputLost if one is shorter."""
        disk, self._counted_s = self._files.disk, self._clock()
        for name, size in self._sizes():
            await self._files.on_disk(disk.create, name)  # an existing file stays as it is
            if await self._files.on_disk(disk.size, name) < size:
                raise OutputLost(f"the batch's answers in {name} are no longer on the server's disk")
            await self._files.on_disk(disk.truncate, name, size)

    async def done(self) -> set[bytes]:
        """Return the digests of the custom_ids of all answered lines."""
        found: set[bytes] = set()
        for name, size in self._sizes():
            offset, rest = 0, b""
            while offset < size:
                wanted = min(_CHUNK_BYTES, size - offset)
                data = await self._files.on_disk(self._files.disk.read, name, offset, wanted)
                offset += len(data)
                *lines, rest = (rest + data).split(b"\n")
                found |= await asyncio.to_thread(_digests, lines)
        return found

    def _sizes(self) -> list[tuple[str, int]]:
        record = self.record
        sizes = ((record.output_name, record.output_bytes), (record.error_name, record.error_bytes))
        return [(name, size) for name, size in sizes if name is not None]

    async def add(self, results: list[Result]) -> None:
        """Append the results and commit them: all, or none if this raises. After a cancellation, call it again with
        the same results; further ones may follow them."""
        record = self.record
        completed = [each for each in results if each.is_completed]
        failed = [each for each in results if not each.is_completed]
        output, errors = (b"".join(each.data for each in part) for part in (completed, failed))
        for name, size, data in (
            (record.output_name, record.output_bytes, output),
            (record.error_name, record.error_bytes, errors),
        ):
            if data:
                assert name is not None, "a batch that has not started has no answers"
                await self._files.on_disk(self._files.disk.write, name, size, data)
                await self._files.on_disk(self._files.disk.sync, name)

        now_s = self._clock()
        active_s = record.active_s + (0.0 if self._counted_s is None else now_s - self._counted_s)
        usage = msgspec.structs.replace(record.usage)
        for each in results:
            usage.add(each.usage)

        def edit(stored: BatchRecord) -> None:
            """Set totals computed from this process's record. The stored totals may already include these results,
            from an earlier call that was canceled after its commit."""
            stored.output_bytes = record.output_bytes + len(output)
            stored.error_bytes = record.error_bytes + len(errors)
            stored.completed = record.completed + len(completed)
            stored.failed = record.failed + len(failed)
            stored.usage, stored.active_s = usage, active_s

        await self.journal.try_change(edit, is_durable=False)  # lines that a power cut takes are answered again
        self._counted_s = now_s

    async def finish(self, status: BatchStatus, faults: Sequence[LineFault] = ()) -> None:
        """Hand the non-empty files to the owner, and end the batch. Raises OutputLost if a file lost committed bytes.

        faults: the validation errors for the batch's `errors` field.
        """
        await self.recover()
        for name, size in self._sizes():
            await self._files.on_disk(self._files.disk.sync if size else self._files.disk.remove, name)
        now_s = self._files.clock()

        def edit(record: BatchRecord) -> None:
            record.output_file_id = record.output_name if record.output_bytes else None
            record.error_file_id = record.error_name if record.error_bytes else None
            record.output_name = record.error_name = None
            record.errors = [*faults]
            record.enter(status, now_s)

        files = self._new_files(now_s)

        def insert(connection: Connection) -> None:
            for file in files:
                file_table.insert(connection, file)

        await self.journal.try_change(edit, beside=insert)

    def _new_files(self, now_s: float) -> list[File]:
        record = self.record
        after_s = record.output_expires_after_s or self._files.config.batch_max_age
        kinds = ((record.output_name, record.output_bytes, "output"), (record.error_name, record.error_bytes, "error"))
        return [
            File(
                id=name,
                owner=record.owner,
                purpose=BATCH_OUTPUT,
                filename=f"{record.id}_{kind}.jsonl",
                bytes=size,
                created_s=int(now_s),
                expires_s=int(now_s + after_s),
            )
            for name, size, kind in kinds
            if name is not None and size
        ]


class Storing:
    """Buffer of answers that are not stored yet. Invariant: an answer stays here until it is committed to the
    output."""

    def __init__(self, output: Output, env: JobEnvironment, on_room: Callable[[], None]) -> None:
        """on_room: called whenever answers were stored, and the buffer has room again."""
        self._output = output
        self._env = env
        self._on_room = on_room
        self._unstored: list[Result] = []
        self._added = asyncio.Event()

    @property
    def is_full(self) -> bool:
        return len(self._unstored) >= _MAX_UNSTORED

    def add(self, result: Result) -> None:
        self._unstored.append(result)
        self._added.set()

    async def run(self) -> None:
        """Store answers as they arrive, until canceled."""
        while True:
            await self._added.wait()
            self._added.clear()
            while self._unstored:
                await self._env.wait_until_quiet(self._output.record.model, _MAX_UNSTORED_S)
                await self.persist(self._store_some)
                await self._env.sleep(_STORE_INTERVAL_S)

    async def flush(self) -> None:
        """Store all buffered answers; retry while the disk fails."""
        while self._unstored:
            await self.persist(self._store_some)

    async def try_once(self) -> None:
        """Try once to store the buffered answers. If that fails, their lines run again after the server restarts."""
        if self._unstored:
            with contextlib.suppress(StorageFailed):
                await self._store_some()

    async def _store_some(self) -> None:
        results = self._unstored[:_MAX_UNSTORED]
        await self._output.add(results)
        del self._unstored[: len(results)]
        self._on_room()
        num_completed = sum(each.is_completed for each in results)
        self._env.metrics.add("batch_lines_total", num_completed, "completed")
        self._env.metrics.add("batch_lines_total", len(results) - num_completed, "failed")

    async def persist(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await `work()` and return its result; retry it while the disk fails."""
        return await persist(work, f"batch {self._output.record.id}", sleep=self._env.sleep)
