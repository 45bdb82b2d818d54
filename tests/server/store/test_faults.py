"""A disk that is full, and a clock that is set: the store fails softly, and nothing is lost that need not be."""

import logging
import sqlite3
from pathlib import Path

import pytest

from engine.child_processes.fault_plan import FaultPlan
from server.errors import StorageFailed
from server.store.database import Database, memory_database
from server.store.entries import Entries, Entry
from server.store.opening import open_database
from server.store.steady_clock import SteadyClock
from tests.helpers.fake_client import http
from tests.helpers.response_state import PATH, make_engine, state_app

pytestmark = pytest.mark.fast


def _entries(database: Database, *, max_age_s: float = 100.0, clock: SteadyClock | None = None) -> Entries:
    return Entries(database, max_bytes=2**20, max_age_s=max_age_s, clock=clock)


def _entry(name: str, size: int = 0) -> Entry:
    return Entry(name, "t", "", 1, "", {"text": "x" * size})


async def test_a_full_disk_is_told_once_and_nothing_else_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """SQLite's own answer, to a file that may not grow."""
    caplog.set_level(logging.WARNING)
    with open_database(tmp_path) as database:
        entries = _entries(database)
        await entries.put(_entry("before"))
        await database.run(lambda connection: _allow_pages(connection, 1))  # SQLite takes what there is, if it is more
        for name in "abc":
            with pytest.raises(StorageFailed, match="database or disk is full"):
                await entries.put(_entry(name, 100_000))
        assert [message.partition(":")[0] for message in caplog.messages] == [f"the store at {_file(tmp_path)} fails"]
        assert await entries.get("t", "before", "") is not None
        await database.run(lambda connection: _allow_pages(connection, 10_000))
        await entries.put(_entry("after", 100_000))
        assert "works again" in caplog.messages[-1]


async def test_a_disk_on_which_small_things_still_fit_is_told_once_a_minute(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING)
    clock = [1000.0]
    monkeypatch.setattr("server.store.database.time.monotonic", lambda: clock[0])
    with open_database(tmp_path) as database:
        entries = _entries(database)
        await entries.put(_entry("before"))
        await database.run(lambda connection: _allow_pages(connection, 1))
        for clock[0] in (1000.0, 1001.0, 1059.0, 1060.0, 1061.0):
            with pytest.raises(StorageFailed):
                await entries.put(_entry("large", 100_000))
            assert await entries.get("t", "before", "") is not None
    told = ["fails" if "fails" in message else "works" for message in caplog.messages]
    assert told == ["fails", "works"] * 2


def _file(folder: Path) -> Path:
    return folder / "headrace.sqlite3"


def _allow_pages(connection: sqlite3.Connection, count: int) -> None:
    connection.execute(f"PRAGMA max_page_count={count}")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_that_cannot_be_stored_is_answered(stream: bool) -> None:
    app = state_app(make_engine())
    app.state.context.store = _entries(memory_database(FaultPlan("store:full:*1")))
    async with http(app) as client:
        answer = await client.post(PATH, json={"input": "hi", "stream": stream})
        assert answer.status_code == 200
        assert "Hello." in answer.text
        if not stream:
            assert answer.json()["store"] is False
        refused = await client.post(PATH, json={"input": "hi", "background": True})  # it would be found nowhere
        assert (refused.status_code, refused.json()["error"]["code"]) == (500, "storage_failed")


async def test_a_background_response_whose_end_cannot_be_stored_ends() -> None:
    app = state_app(make_engine())
    app.state.context.store = _entries(memory_database(FaultPlan("store:full:2")))  # its beginning is stored
    async with http(app) as client:
        body = {"input": "hi", "background": True}
        response_id = (await client.post(PATH, json=body)).json()["id"]
        (run,) = app.state.context.runs._runs.values()
        await run.wait_until_ended()
        shown = (await client.get(f"{PATH}/{response_id}")).json()
        assert (shown["status"], shown["store"]) == ("completed", False)
        app.state.context.runs._forget(run)
        shown = (await client.get(f"{PATH}/{response_id}")).json()
        assert shown["status"] == "failed"
        assert "could not be stored" in shown["error"]["message"]


@pytest.mark.parametrize("jump_s", [-7200.0, 7200.0])
async def test_a_clock_that_is_set_makes_nothing_expire(tmp_path: Path, jump_s: float) -> None:
    wall, monotonic = 1_000_000.0, 50.0
    clock = SteadyClock(lambda: wall, lambda: monotonic)
    with open_database(tmp_path) as database:
        entries = _entries(database, clock=clock)
        await entries.put(_entry("old"))
        wall, monotonic = wall + jump_s, monotonic + 60.0
        await entries.put(_entry("new"))
        await entries.expire()
        assert await entries.get("t", "old", "") is not None
        monotonic += 90.0  # "old" was used a moment ago
        await entries.expire()
        assert await entries.get("t", "new", "") is not None
        monotonic += 101.0
        await entries.expire()
        assert await entries.get("t", "new", "") is None
