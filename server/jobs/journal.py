"""Journal: reads and changes the stored record of one job, and its events, for the task that works on the job."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from sqlite3 import Connection
from typing import Any, Generic

from engine.command_io.finetuning.events import JobEvent
from server.files.store import Files
from server.jobs.persistence import persist, shielded
from server.jobs.table import JobStatus, JobTable, Record


def _leave(_record: Any) -> None:
    """Change nothing."""


class Journal(Generic[Record]):
    """Record and events of one job. `record` is the stored record as of the last change through the journal, even one
    whose caller was canceled; clients may have changed the stored record since."""

    def __init__(
        self,
        files: Files,
        table: JobTable[Record],
        record: Record,
        *,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        """sleep: waits between attempts while the disk fails."""
        self.record = record
        self._files = files
        self._table = table
        self._sleep = sleep

    @property
    def now_s(self) -> float:
        """Seconds since 1970."""
        return self._files.clock()

    def event(self, message: str, *, level: str = "info", **data: Any) -> JobEvent:
        return JobEvent(created_at=self.now_s, message=message, level=level, data=data)

    async def change(
        self,
        edit: Callable[[Record], None] = _leave,
        events: Sequence[JobEvent] = (),
        *,
        status: JobStatus | None = None,
        beside: Callable[[Connection], None] = _leave,
        is_durable: bool = True,
    ) -> bool:
        """Edit the record, add events, and call `beside`, in one transaction. Retries until the disk works.

        Returns False, and changes nothing, if `status` is given and the job has another status by now, since a client
        asked for something else.
        """
        return await persist(
            lambda: self.try_change(edit, events, status=status, beside=beside, is_durable=is_durable),
            f"{self._table.noun} {self.record.id}",
            sleep=self._sleep,
        )

    async def try_change(
        self,
        edit: Callable[[Record], None] = _leave,
        events: Sequence[JobEvent] = (),
        *,
        status: JobStatus | None = None,
        beside: Callable[[Connection], None] = _leave,
        is_durable: bool = True,
    ) -> bool:
        """Make one attempt at `change`. Raises StorageFailed."""
        table, job_id = self._table, self.record.id

        def work(connection: Connection) -> tuple[Record | None, bool]:
            current = table.find(connection, job_id)
            if current is None or (status is not None and current.status is not status):
                return current, False
            beside(connection)
            table.add_events(connection, job_id, events)
            return table.change(connection, job_id, edit), True

        async def run() -> bool:
            record, is_changed = await self._files.database.run(work, is_durable=is_durable)
            self.record = record or self.record
            return is_changed

        return await shielded(run())

    async def warn(self, status: JobStatus, message: str) -> None:
        """Add a warning to the job's events, unless the job has another status by now."""
        await self.change(events=[self.event(message, level="warn")], status=status)
