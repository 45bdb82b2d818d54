"""Which batches run, and how many of their lines: none of them holds the others up for good."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from sqlite3 import Connection
from typing import Any

import msgspec
import pytest
from fastapi import FastAPI

from server.batches import kind
from server.batches.record import BATCHES, BatchRecord
from server.jobs import runner
from server.jobs.answers import BodyAnswer
from server.jobs.environment import AnswerBody, Sleep
from server.keys.caller import Caller, name_owner
from server.schemas.batch_answers import BatchStatus
from tests.helpers.batches import CHAT, batches_run, chat_line, jsonl
from tests.helpers.deadline import DEADLINE_S, until
from tests.helpers.fake_client import FakeClient, http, make_app, says
from tests.helpers.keys import api_key, bearer, entry, write_keys

pytestmark = pytest.mark.fast


async def _create(app: FastAPI, num_lines: int = 1, *, text: str = "hi", key: str | None = None) -> str:
    """A batch's id. key: the name of its owner's."""
    async with http(app) as client:
        client.headers.update({} if key is None else bearer(key))
        lines = jsonl(chat_line(f"{i}", text) for i in range(num_lines))
        file = (await client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("a", lines)})).json()
        body = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
        made: str = (await client.post("/v1/batches", json=body)).json()["id"]
        return made


async def _no_time(_seconds: float) -> None:
    await asyncio.sleep(0)


def _runs(app: FastAPI, answer: AnswerBody) -> contextlib.AbstractAsyncContextManager[None]:
    """Run batches within the context, whose lines `answer` answers."""
    return batches_run(app, answer, sleep=_no_time)


async def _record(app: FastAPI, batch_id: str) -> BatchRecord:
    """What is stored of a batch."""

    def read(connection: Connection) -> BatchRecord:
        (body,) = connection.execute("SELECT body FROM batches WHERE id = ?", (batch_id,)).fetchone()
        return msgspec.json.decode(body, type=BatchRecord)

    record: BatchRecord = await app.state.context.files.database.run(read)
    return record


async def _until_it_is(app: FastAPI, batch_id: str, status: BatchStatus) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while (await _record(app, batch_id)).status is not status:
            await asyncio.sleep(0.001)


async def _blocks(caller: Caller, endpoint: str, body: Any, sleep: Sleep) -> BodyAnswer:
    """Answers bob's lines, and none of ann's ever."""
    if caller.owner == name_owner("bob"):
        return await _answers(caller, endpoint, body, sleep)
    await asyncio.Event().wait()
    raise AssertionError


async def _answers(_caller: Caller, _endpoint: str, _body: Any, _sleep: Sleep) -> BodyAnswer:
    return BodyAnswer("req", 200, b"{}")


async def test_lines_that_wait_are_no_reason_to_begin_all_others() -> None:
    """They give their places back meanwhile, and each would let another line in."""
    num_running, most, num_waits = 0, 0, 0

    async def waits(_caller: Caller, _endpoint: str, _body: Any, sleep: Sleep) -> BodyAnswer:
        nonlocal num_running, most, num_waits
        num_running += 1
        most = max(most, num_running)
        while True:
            await sleep(1.0)
            num_waits += 1

    engine = FakeClient(says(""))
    app = make_app(engine)
    await _create(app, 1000)
    async with _runs(app, waits):
        await until(lambda: num_waits >= 5000)
    assert most == 3 * engine.info.max_num_seqs


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    """With keys of ann and bob, and room for two batches."""
    monkeypatch.setattr(kind, "_MAX_RUNNING", 2)
    return _app(tmp_path)


def _app(tmp_path: Path, **options: object) -> FastAPI:
    keys = write_keys(tmp_path / "keys", entry("ann"), entry("bob"))
    return make_app(FakeClient(says("")), api_keys_file=keys, **options)


@contextlib.asynccontextmanager
async def _full(app: FastAPI) -> AsyncIterator[None]:
    """Within it as many batches of ann's run as may, and do not go on."""
    blocked = [await _create(app, key="ann") for _ in range(2)]
    async with _runs(app, _blocks):
        for batch_id in blocked:
            await _until_it_is(app, batch_id, BatchStatus.IN_PROGRESS)
        yield


async def test_the_runner_survives_an_error_of_the_servers_own(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runner, "_AGAIN_S", 0.001)
    works, has_failed = BATCHES.by_status, asyncio.Event()

    def fails(_connection: Connection) -> dict[str, int]:
        has_failed.set()
        raise RuntimeError("a fault")

    monkeypatch.setattr(BATCHES, "by_status", fails)
    async with _runs(app, _answers):
        async with asyncio.timeout(DEADLINE_S):
            await has_failed.wait()
        monkeypatch.setattr(BATCHES, "by_status", works)
        await _until_it_is(app, await _create(app, key="bob"), BatchStatus.COMPLETED)
    assert "a fault" in caplog.text


@pytest.mark.parametrize("code", ["line_too_long", "input_file_not_found"])
async def test_a_batch_whose_input_is_of_no_use_any_more_fails_with_the_answers_it_has(
    app: FastAPI, tmp_path: Path, code: str
) -> None:
    batch_id = await _create(app, 3, text="x" * 1000, key="bob")
    num_begun = 0

    async def first(caller: Caller, endpoint: str, body: Any, sleep: Sleep) -> BodyAnswer:
        """Answers one line, and no other ever."""
        nonlocal num_begun
        num_begun += 1
        if num_begun > 1:
            await asyncio.Event().wait()
        return await _answers(caller, endpoint, body, sleep)

    files = app.state.context.files
    async with _runs(app, first):
        async with asyncio.timeout(DEADLINE_S):
            while not (await _record(app, batch_id)).completed:
                await asyncio.sleep(0.001)
    record = await _record(app, batch_id)
    restarted = app
    if code == "line_too_long":
        restarted = _app(tmp_path, max_request_bytes=1000)
        restarted.state.context.files = files
    else:
        files.disk.remove(record.input_file_id)
    async with _runs(restarted, _answers):
        await _until_it_is(app, batch_id, BatchStatus.FAILED)
    record = await _record(app, batch_id)
    assert [fault.code for fault in record.errors] == [code]
    assert (record.completed, record.error_file_id) == (1, None)
    assert record.output_file_id is not None
    assert await files.find(record.output_file_id, name_owner("bob")) is not None


async def test_the_time_of_a_line_counts_before_its_answer_is_stored(app: FastAPI) -> None:
    began = asyncio.Event()

    async def answer(_caller: Caller, _endpoint: str, _body: Any, _sleep: Sleep) -> BodyAnswer:
        began.set()
        await asyncio.Event().wait()
        raise AssertionError

    pace = app.state.context.live.pace
    async with _runs(app, answer):
        batch = await _create(app, key="bob")
        await asyncio.wait_for(began.wait(), DEADLINE_S)
        run_s, paused_s = pace.run_of(batch)
        assert run_s > 0.0
        assert paused_s == 0.0
    assert pace.run_of(batch) is None


async def test_batches_of_one_key_that_do_not_go_on_hold_up_no_other_key(app: FastAPI) -> None:
    async with _full(app):
        for _ in range(2):
            await _until_it_is(app, await _create(app, key="bob"), BatchStatus.COMPLETED)


@pytest.mark.parametrize("status", [BatchStatus.CANCELLED, BatchStatus.EXPIRED])
async def test_a_batch_that_has_not_begun_ends_though_no_more_may_run(app: FastAPI, status: BatchStatus) -> None:
    files = app.state.context.files
    async with _full(app):
        batch_id = await _create(app, 3, key="ann")
        if status is BatchStatus.CANCELLED:
            async with http(app) as client:
                (await client.post(f"/v1/batches/{batch_id}/cancel", headers=bearer("ann"))).raise_for_status()
        else:
            late_s = files.clock() + 86401
            files.clock = lambda: late_s
        await _until_it_is(app, batch_id, status)
    record = await _record(app, batch_id)
    assert (record.total, record.failed) == (3, 3)


async def test_batches_of_a_key_that_is_gone_wait_and_hold_up_no_other(app: FastAPI) -> None:
    waiting = [await _create(app, key="ann") for _ in range(3)]
    ring = app.state.context.keys.ring
    ring.replace([api_key("bob")])
    async with _runs(app, _answers):
        for batch_id in [await _create(app, key="bob") for _ in range(4)]:
            await _until_it_is(app, batch_id, BatchStatus.COMPLETED)
        assert [(await _record(app, each)).status for each in waiting] == [BatchStatus.VALIDATING] * 3
        ring.replace([api_key("ann"), api_key("bob")])
        for batch_id in waiting:
            await _until_it_is(app, batch_id, BatchStatus.COMPLETED)


async def test_running_batches_of_a_key_that_is_gone_take_no_room(app: FastAPI) -> None:
    async with _full(app):
        app.state.context.keys.ring.replace([api_key("eve")])
        for batch_id in [await _create(app, key="eve") for _ in range(2)]:
            await _until_it_is(app, batch_id, BatchStatus.IN_PROGRESS)
