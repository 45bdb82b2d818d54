"""A further kind of background job brings its record and its work; table, runner, restarts and events are there."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from engine.config import EngineConfig
from server.app import JOB_KINDS, create_app
from server.config.server import ServerConfig
from server.jobs import runner
from server.metrics.values import Metrics
from server.store.opening import open_store
from server.text.chat_templates.direct_templates import DirectTemplates
from tests.helpers import counting_jobs
from tests.helpers.counting_jobs import (
    COUNTING_JOBS,
    Counting,
    CountingJobs,
    CountingRecord,
    CountingStatus,
    add,
    cancel,
    counts,
    events_of,
    find,
    until_ended,
)
from tests.helpers.deadline import until
from tests.helpers.fake_client import MODEL, FakeClient, says

pytestmark = pytest.mark.fast


@contextlib.contextmanager
def _server(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FastAPI]:
    """A server with the counting jobs among its kinds."""
    monkeypatch.setattr("server.app.JOB_KINDS", (*JOB_KINDS, CountingJobs))
    config = ServerConfig(data_dir=str(data_dir))
    with open_store(config) as store:
        client, engine = FakeClient(says("")), EngineConfig(model=MODEL)
        yield create_app(client, config, engine, Metrics(MODEL), store, templates=DirectTemplates())


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FastAPI]:
    with _server(tmp_path, monkeypatch) as app:
        yield app


async def _no_time(_seconds: float) -> None:
    await asyncio.sleep(0)


class _Turns:
    """A sleep that ends as often as it may, and then never."""

    def __init__(self, count: int) -> None:
        self.left = count

    async def __call__(self, _seconds: float) -> None:
        while not self.left:
            await asyncio.sleep(0.001)
        self.left -= 1


async def test_jobs_run_to_their_end_and_are_listed_the_newest_first(app: FastAPI) -> None:
    database = app.state.context.files.database
    async with counts(app, _no_time):
        for number in range(3):
            await add(app, CountingRecord(id=f"job-{number}"))
        assert [(await until_ended(app, f"job-{number}")).count for number in range(3)] == [5, 5, 5]
    assert await events_of(app, "job-1") == ["1", "2", "3", "4", "5"]
    page = await database.run(lambda connection: COUNTING_JOBS.page(connection, "me", "job-2", 1))
    assert page is not None
    assert ([each.id for each in page[0]], page[1]) == (["job-1"], True)
    assert await database.run(COUNTING_JOBS.by_status) == {"counting": 0, "counted": 3, "canceled": 0}


async def test_a_job_continues_after_a_restart_in_its_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with _server(tmp_path, monkeypatch) as app:
        turns = _Turns(2)
        async with counts(app, turns) as jobs:
            await add(app, CountingRecord(id="job"))
            await until(lambda: not turns.left)
            assert jobs.num_works == 1
    with _server(tmp_path, monkeypatch) as app:
        assert 1 <= (await find(app, "job")).count <= 2
        async with counts(app, _no_time):
            assert (await until_ended(app, "job")).status is CountingStatus.COUNTED
        assert await events_of(app, "job") == ["1", "2", "3", "4", "5"]


async def test_a_canceled_job_stops_and_the_next_one_starts(app: FastAPI) -> None:
    turns = _Turns(2)
    async with counts(app, turns):
        await add(app, CountingRecord(id="first"))
        await add(app, CountingRecord(id="second"))
        await until(lambda: not turns.left)
        await cancel(app, "first")
        turns.left = 100
        assert (await until_ended(app, "second")).count == 5
    first = await find(app, "first")
    assert first.status is CountingStatus.CANCELED
    assert first.count <= 2


async def test_no_job_starts_while_the_server_is_drained(app: FastAPI) -> None:
    drain = app.state.context.drain
    async with counts(app, _no_time) as jobs:
        drain.start(0.0)
        await add(app, CountingRecord(id="job"))
        await asyncio.sleep(0.01)
        assert jobs.num_works == 0
        drain.cancel()
        jobs.wake("job")
        await until_ended(app, "job")


async def test_an_error_of_the_servers_own_interrupts_its_job_alone(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runner, "_LOOK_S", 0.001)
    monkeypatch.setattr(runner, "_AGAIN_S", 0.01)
    num_failures = 0

    class Failing(Counting):
        async def run(self) -> None:
            nonlocal num_failures
            if self.id == "bad" and num_failures < 2:
                num_failures += 1
                raise RuntimeError("a fault")
            await super().run()

    monkeypatch.setattr(counting_jobs, "Counting", Failing)
    async with counts(app, _no_time):
        for name in ("bad", "good"):
            await add(app, CountingRecord(id=name))
        for name in ("good", "bad"):
            assert (await until_ended(app, name)).count == 5
    assert caplog.text.count("an internal error interrupted the counting job bad, which continues soon") == 2


async def test_work_ends_when_the_server_stops(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_LOOK_S", 0.001)
    async with counts(app, _Turns(0)) as jobs:
        await add(app, CountingRecord(id="job"))
        await until(lambda: jobs.num_works)
        app.state.context.drain.stop(0.0)
        await until(lambda: not jobs.num_works)
    assert (await find(app, "job")).status is CountingStatus.COUNTING


async def test_jobs_that_ended_long_ago_are_deleted_with_their_events(app: FastAPI) -> None:
    files = app.state.context.files
    async with counts(app, _no_time) as jobs:
        await add(app, CountingRecord(id="job"))
        await until_ended(app, "job")
        await jobs.tidy()
        assert (await find(app, "job")).count == 5
        late_s = files.clock() + 3602
        files.clock = lambda: late_s
        await jobs.tidy()
    database = files.database
    assert await database.run(lambda connection: COUNTING_JOBS.find(connection, "job")) is None
    assert await events_of(app, "job") == []


async def test_the_file_of_a_job_is_in_use_until_the_job_has_ended(app: FastAPI) -> None:
    files = app.state.context.files
    await add(app, CountingRecord(id="job", file_id="file-1"))

    async def uses() -> list[str]:
        found = [await files.database.run(lambda connection, use=use: use(connection, "file-1")) for use in files.users]
        return [each for each in found if each is not None]

    assert await uses() == [
        "the counting job job reads it, and is counting; cancel the counting job, or wait until it has ended"
    ]
    async with counts(app, _no_time):
        await until_ended(app, "job")
    assert await uses() == []
