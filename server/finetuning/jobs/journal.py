"""Journal: one job as it is stored, for the one task that works on it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from sqlite3 import Connection
from typing import Any

from engine.command_io.finetuning.events import JobEvent
from server.errors import StorageFailed
from server.files.store import Files
from server.finetuning.jobs import table
from server.finetuning.jobs.record import FinetuneRecord
from server.finetuning.jobs.settled import settled
from server.schemas.finetune_answers import FinetuneError, FinetuneStatus

logger = logging.getLogger(__name__)

_RETRY_S = 5.0


class Journal:
    """`record` is as it is stored, but for what clients change; also when `change` is canceled. A disk that fails is
    waited for."""

    def __init__(
        self, files: Files, record: FinetuneRecord, *, sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep
    ) -> None:
        self.record = record
        self._files = files
        self._sleep = sleep

    @property
    def now_s(self) -> float:
        """Seconds since 1970."""
        return self._files.clock()

    def event(self, message: str, *, level: str = "info", **data: Any) -> JobEvent:
        return JobEvent(created_at=self.now_s, message=message, level=level, data=data)

    async def change(
        self,
        status: FinetuneStatus,
        edit: table.Edit,
        events: Sequence[JobEvent] = (),
        *,
        beside: Callable[[Connection], None] = lambda _: None,
        is_durable: bool = True,
    ) -> bool:
        """Edit the record, add events, and do `beside`, all or nothing; False if the job no longer has that status:
        then a client wants it to do something else, and nothing is changed."""
        job_id = self.record.id

        def work(connection: Connection) -> tuple[FinetuneRecord | None, bool]:
            current = table.get(connection, job_id)
            if current is None or current.status is not status:
                return current, False
            beside(connection)
            table.add_events(connection, job_id, events)
            return table.change(connection, job_id, edit), True

        has_failed = False
        while True:
            try:
                return await settled(self._run(work, is_durable=is_durable))
            except StorageFailed as error:
                if not has_failed:
                    logger.warning("fine-tuning job %s waits until it can be stored: %s", job_id, error)
                has_failed = True
                await self._sleep(_RETRY_S)

    async def _run(self, work: Callable[[Connection], tuple[FinetuneRecord | None, bool]], *, is_durable: bool) -> bool:
        record, is_changed = await self._files.database.run(work, is_durable=is_durable)
        self.record = record or self.record
        return is_changed

    async def tell(self, status: FinetuneStatus, message: str) -> None:
        """Add a warning to its events, unless a client wants something else of it by now."""
        await self.change(status, lambda _: None, [self.event(message, level="warn")])

    async def fail(self, status: FinetuneStatus, error: FinetuneError, events: Sequence[JobEvent] = ()) -> None:
        """End it, unless a client wants it otherwise by now."""

        def edit(record: FinetuneRecord) -> None:
            record.error = error
            record.enter(FinetuneStatus.FAILED, self.now_s)

        last = self.event(f"The job failed: {error.message}", level="error")
        if await self.change(status, edit, [*events, last]):
            logger.warning("fine-tuning job %s failed: %s", self.record.id, error.message)
