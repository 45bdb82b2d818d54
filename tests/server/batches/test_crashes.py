"""Each line is answered exactly once, whenever the server is killed, the power is cut or the disk is full."""

import asyncio
import json
import random
import re
from collections import Counter
from typing import Any

import pytest
from fastapi import FastAPI

from server.config.storage import StorageConfig
from server.files.disk import Disk
from server.files.store import Files
from server.jobs.answers import BodyAnswer
from server.jobs.environment import Sleep
from server.keys.caller import Caller
from server.schemas.batch_answers import BatchStatus
from tests.helpers.batches import CHAT, batch_runner, chat_line, jsonl
from tests.helpers.crashing import CrashingDatabase, CrashingDisk, Power, PowerCut
from tests.helpers.deadline import DEADLINE_S
from tests.helpers.fake_client import FakeClient, http, make_app, says

pytestmark = pytest.mark.fast

_NUM_LINES = 12
_lengths = random.Random(0)


async def _answer(_caller: Caller, _endpoint: str, body: dict[str, Any], _sleep: Sleep) -> Any:
    """An echo, another time of another length; every fourth line is an error."""
    await asyncio.sleep(0)
    text = body["messages"][0]["content"]
    is_wrong = int(text) % 4 == 3
    answer = (
        {"error": {"message": text}}
        if is_wrong
        else {"echo": text * _lengths.randrange(1, 80), "usage": {"prompt_tokens": 1}}
    )
    return BodyAnswer(f"req_{text}", 400 if is_wrong else 200, json.dumps(answer).encode())


class _Machine:
    """One server after the other on what the one before has left."""

    def __init__(self, number: int, app: FastAPI) -> None:
        """app: which all machines use, one after the other; to make one takes longer than all else."""
        self._made = app
        self._users = app.state.context.files.users
        self.chance = random.Random(number)
        self.power = Power(None)
        self.disk: CrashingDisk = CrashingDisk(self.power)
        self.database = CrashingDatabase(self.power)
        self.num_starts = 0

    async def begin(self) -> str:
        """Upload a file and make a batch of it, with power that lasts; its id."""
        app = self._app()
        async with http(app) as client:
            lines = jsonl(chat_line(f"line-{i}", str(i)) for i in range(_NUM_LINES))
            file = (await client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("a", lines)})).json()
            body = {"input_file_id": file["id"], "endpoint": CHAT, "completion_window": "24h"}
            made: str = (await client.post("/v1/batches", json=body)).json()["id"]
            return made

    def _app(self) -> FastAPI:
        disk: Disk = self.disk
        files = Files(self.database, disk, StorageConfig())
        files.users += self._users
        self._made.state.context.files = files
        return self._made

    async def serve(self, batch_id: str) -> bool:
        """Run until the batch has ended, which is True, or the power has. A failing disk is waited for in no time."""
        self.num_starts += 1
        runner = batch_runner(self._app(), _answer, sleep=lambda _: asyncio.sleep(0))

        async def run() -> None:
            await runner.sweep()
            await runner.run()

        running = asyncio.create_task(run())
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not self.power.is_off:
                    if running.done():
                        running.result()
                    if self._status(batch_id).has_ended:
                        return True
                    await asyncio.sleep(0.002)
            return False
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def serve_some(self, batch_id: str, num_operations: int) -> None:
        """Run until so many more operations were begun, or the batch has ended; and leave the end of all tasks to the
        loop's."""
        wanted = self.power.num_operations + num_operations
        runner = batch_runner(self._app(), _answer, sleep=lambda _: asyncio.sleep(0))
        running = asyncio.create_task(runner.run())
        async with asyncio.timeout(DEADLINE_S):
            while self.power.num_operations < wanted and not self._status(batch_id).has_ended:
                if running.done():
                    running.result()
                await asyncio.sleep(0)

    def _status(self, batch_id: str) -> BatchStatus:
        """Read beside the power."""
        connection = self.database.look()
        (status,) = connection.execute("SELECT status FROM batches WHERE id = ?", (batch_id,)).fetchone()
        return BatchStatus(status)

    def crash(self, *, lasts: int | None) -> None:
        """Go on with what is left, and power for so many operations."""
        old_disk, old_database = self.disk, self.database
        full_at = frozenset(self.chance.sample(range(1, 30), 3))
        self.power = Power(lasts, is_done=self.chance.random() < 0.5)
        self.disk = old_disk.after_crash(self.chance, self.power, full_at=full_at)
        self.database = old_database.after_crash(self.chance, self.power)
        old_database.close()

    async def check(self, batch_id: str) -> None:
        async with http(self._app()) as client:
            batch = (await client.get(f"/v1/batches/{batch_id}")).json()
            listed = (await client.get("/v1/files")).json()["data"]
        assert batch["status"] == "completed", batch
        lines = {"output": [], "error": []} | {
            kind: [json.loads(line) for line in self.disk.content(batch[f"{kind}_file_id"]).splitlines()]
            for kind in ("output", "error")
        }
        answered = Counter(line["custom_id"] for part in lines.values() for line in part)
        assert answered == Counter(f"line-{i}" for i in range(_NUM_LINES))
        for line in lines["output"]:
            assert re.fullmatch(f"({line['custom_id'].removeprefix('line-')})+", line["response"]["body"]["echo"])
        assert all(line["response"]["status_code"] == 400 for line in lines["error"])
        num_failed = _NUM_LINES // 4
        counts = {"total": _NUM_LINES, "completed": _NUM_LINES - num_failed, "failed": num_failed}
        assert batch["request_counts"] == counts
        assert batch["usage"]["input_tokens"] == _NUM_LINES - num_failed
        sizes = {file["id"]: file["bytes"] for file in listed}
        assert set(sizes) == {batch["input_file_id"], batch["output_file_id"], batch["error_file_id"]}
        assert all(len(self.disk.content(name)) == size for name, size in sizes.items())
        self.database.close()


async def _num_operations(app: FastAPI) -> int:
    """Of a batch that nothing ends."""
    machine = _Machine(0, app)
    batch_id = await machine.begin()
    before = machine.power.num_operations
    assert await machine.serve(batch_id)
    await machine.check(batch_id)
    return machine.power.num_operations - before


@pytest.mark.parametrize("first", range(0, 100, 25))
async def test_each_line_is_answered_once_whenever_the_power_is_cut(first: int) -> None:
    app = make_app(FakeClient(says("")))
    _lengths.seed(first)
    most = await _num_operations(app)
    for number in range(first, first + 25):
        machine = _Machine(number, app)
        batch_id = await machine.begin()
        for _ in range(3):
            machine.crash(lasts=machine.chance.randrange(1, most + 5))
            await machine.serve(batch_id)
        machine.crash(lasts=None)
        assert await machine.serve(batch_id), number
        await machine.check(batch_id)


def test_each_line_is_answered_once_whenever_all_tasks_are_canceled() -> None:
    """Also those that wait for the end of what was begun."""
    app = make_app(FakeClient(says("")))
    _lengths.seed(0)
    for number in range(12):
        machine = _Machine(number, app)
        batch_id = asyncio.run(machine.begin())
        for _ in range(3):
            asyncio.run(machine.serve_some(batch_id, machine.chance.randrange(1, 30)))
        assert asyncio.run(machine.serve(batch_id)), number
        asyncio.run(machine.check(batch_id))


async def test_a_cut_is_felt() -> None:
    """Nothing is written once the power is off."""
    power = Power(2)
    disk = CrashingDisk(power)
    disk.create("a")
    with pytest.raises(PowerCut):
        disk.write("a", 0, b"x")
    with pytest.raises(PowerCut):
        disk.names()
