"""CountingJobs: a kind of background job that only counts, as small as a kind can be."""

import asyncio
import contextlib
import enum
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from fastapi import FastAPI

from server.jobs.answers import BodyAnswer
from server.jobs.environment import JobEnvironment, Sleep
from server.jobs.journal import Journal
from server.jobs.kind import JobKind, JobWork
from server.jobs.runner import JobRunner
from server.jobs.table import JobTable
from server.keys.caller import Caller
from tests.helpers.deadline import DEADLINE_S


class CountingStatus(enum.StrEnum):
    COUNTING = "counting"
    COUNTED = "counted"
    CANCELED = "canceled"

    @property
    def has_ended(self) -> bool:
        return self is not CountingStatus.COUNTING


class CountingRecord(msgspec.Struct, kw_only=True):
    id: str
    owner: str = "me"
    status: CountingStatus = CountingStatus.COUNTING
    file_id: str | None = None
    goal: int = 5
    count: int = 0
    ended_s: int | None = None


COUNTING_JOBS = JobTable(
    "counting_jobs",
    CountingRecord,
    CountingStatus,
    noun="counting job",
    columns={"file": lambda record: record.file_id, "ended_s": lambda record: record.ended_s},
    file_columns=("file",),
    events="counting_events",
)


class Counting(JobWork[CountingRecord]):
    def __init__(self, record: CountingRecord, env: JobEnvironment) -> None:
        super().__init__(record)
        self._journal = Journal(env.files, COUNTING_JOBS, record, sleep=env.sleep)
        self._sleep = env.sleep

    async def run(self) -> None:
        while self._journal.record.count < self._journal.record.goal:
            await self._sleep(1.0)
            number = self._journal.record.count + 1
            await self._change(number, [self._journal.event(f"{number}")])
        await self._change(self._journal.record.count, [], CountingStatus.COUNTED)

    async def _change(self, count: int, events: list[Any], status: CountingStatus = CountingStatus.COUNTING) -> None:
        def edit(record: CountingRecord) -> None:
            record.count, record.status = count, status
            record.ended_s = int(self._journal.now_s) if status.has_ended else None

        await self._journal.change(edit, events, status=CountingStatus.COUNTING)


class CountingJobs(JobKind[CountingRecord]):
    table = COUNTING_JOBS

    def work(self, record: CountingRecord) -> Counting:
        return Counting(record, self.env)

    @property
    def max_age_s(self) -> float:
        return 3600.0


async def _no_answer(_caller: Caller, _endpoint: str, _body: dict[str, Any], _sleep: Sleep) -> BodyAnswer:
    raise AssertionError("counting asks no model")


@contextlib.asynccontextmanager
async def counts(app: FastAPI, sleep: Sleep) -> AsyncIterator[JobRunner]:
    """Work on the application's counting jobs within the context. sleep: between two numbers."""
    runner = JobRunner(app.state.context, [CountingJobs], _no_answer, sleep=sleep)
    await runner.prepare()
    running = asyncio.create_task(runner.run())
    try:
        yield runner
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def add(app: FastAPI, record: CountingRecord) -> None:
    """Do the work of a route that makes a job."""
    context = app.state.context
    await context.files.database.run(lambda connection: COUNTING_JOBS.insert(connection, record), is_durable=True)
    context.wake_job(record.id)


async def cancel(app: FastAPI, job_id: str) -> None:
    """Do the work of a route that cancels a job."""

    def edit(record: CountingRecord) -> None:
        record.status = CountingStatus.CANCELED

    context = app.state.context
    await context.files.database.run(lambda connection: COUNTING_JOBS.change(connection, job_id, edit))
    context.wake_job(job_id)


async def find(app: FastAPI, job_id: str) -> CountingRecord:
    record = await app.state.context.files.database.run(lambda connection: COUNTING_JOBS.find(connection, job_id))
    assert record is not None
    return record  # type: ignore[no-any-return]


async def until_ended(app: FastAPI, job_id: str) -> CountingRecord:
    async with asyncio.timeout(DEADLINE_S):
        while not (await find(app, job_id)).status.has_ended:
            await asyncio.sleep(0.001)
    return await find(app, job_id)


async def events_of(app: FastAPI, job_id: str) -> list[str]:
    """The messages of a job's events, the oldest first."""
    found, _ = await app.state.context.files.database.run(
        lambda connection: COUNTING_JOBS.events_page(connection, job_id, None, 1000)
    )
    return [each.event.message for each in reversed(found)]
