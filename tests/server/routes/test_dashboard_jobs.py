"""The dashboard's jobs: one's own with a key, everyone's as figures for an operator, contents for their owner alone."""

import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from fastapi import FastAPI

from engine.command_io.finetuning.events import JobEvent
from engine.protocol import StepStats
from server.batches.record import BATCHES, BatchRecord
from server.dashboard import job
from server.finetuning.jobs.record import FinetuningCheckpoint, FinetuningRecord, Resolved
from server.schemas.batch_answers import BatchStatus
from server.schemas.finetuning_answers import FinetuningError, FinetuningStatus
from tests.helpers.batches import CHAT, batches_run, chat_line, ended, jsonl
from tests.helpers.fake_client import MODEL, FakeClient, http, make_app, says
from tests.helpers.finetuning import Runner, create, official
from tests.helpers.keys import entry, write_keys

pytestmark = pytest.mark.fast

_ELSEWHERE = ("203.0.113.9", 5000)


class _Served:
    """An application with the keys ann, ben and root, which is an operator's."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self.runner = Runner(app)

    def client(self, name: str) -> openai.AsyncOpenAI:
        return official(self.app, f"secret-{name}", self.runner)

    async def get(self, name: str, path: str = "/dashboard/jobs") -> Any:
        headers = {"authorization": f"Bearer secret-{name}"}
        async with http(self.app) as api:
            answer = await api.get(path, headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.headers["cache-control"] == "no-store"
        return answer.json()


@contextlib.asynccontextmanager
async def _served(folder: Path) -> AsyncIterator[_Served]:
    keys = write_keys(folder / "keys.json", entry("ann"), entry("ben"), entry("root", admin=True))
    app = make_app(FakeClient(says("Because.")), api_keys_file=keys, enable_lora=True, data_dir=str(folder))
    yield _Served(app)


async def _batch(client: openai.AsyncOpenAI) -> Any:
    lines = jsonl([chat_line("a"), chat_line("b")])
    file = await client.files.create(file=("secret-plans.jsonl", lines), purpose="batch")
    return await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")


async def test_a_key_sees_its_own_jobs_and_an_operator_everyones(tmp_path: Path) -> None:
    async with _served(tmp_path) as served:
        batch, made = await _batch(served.client("ann")), await create(served.client("ben"))
        ann, ben, root = [await served.get(name) for name in ("ann", "ben", "root")]
        assert [each["id"] for each in ann["jobs"]] == [batch.id]
        assert [each["id"] for each in ben["jobs"]] == [made.id]
        assert {each["id"]: each["key"] for each in root["jobs"]} == {batch.id: "ann", made.id: "ben"}
        assert [report["is_everyones"] for report in (ann, ben, root)] == [False, False, True]
        assert [report["num_files"] for report in (ann, ben, root)] == [1, 1, 2]
        assert root["file_bytes"] == ann["file_bytes"] + ben["file_bytes"] > 0
        assert {each["is_own"] for each in root["jobs"]} == {False}


async def test_a_files_name_is_its_owners(tmp_path: Path) -> None:
    async with _served(tmp_path) as served:
        await _batch(served.client("ann"))
        (own,), (others,) = (await served.get("ann"))["files"], (await served.get("root"))["files"]
        assert (own["filename"], own["key"], own["is_own"]) == ("secret-plans.jsonl", "ann", True)
        assert (others["filename"], others["key"], others["is_own"]) == (None, "ann", False)
        assert (others["id"], others["bytes"], others["purpose"]) == (own["id"], own["bytes"], "batch")


async def test_a_training_shows_how_far_it_is(tmp_path: Path) -> None:
    async with _served(tmp_path) as served:
        made = await create(served.client("ann"))
        (new,) = (await served.get("ann"))["jobs"]
        assert (new["kind"], new["model"], new["status"]) == ("supervised", MODEL, "validating_files")
        assert (new["done"], new["total"], new["unit"], new["left_s"]) == (0, 0, "step", None)

        def run(record: FinetuningRecord) -> None:
            record.enter(FinetuningStatus.RUNNING, record.created_at + 5)
            record.resolved = Resolved(n_epochs=2, batch_size=4, learning_rate=2e-4, lora_rank=8, total_steps=20)
            record.step, record.estimated_finish = 7, record.created_at + 10_000

        record = await served.runner.change(made.id, run)
        report = await served.get("root")
        (running,) = report["jobs"]
        assert (running["done"], running["total"], running["started_at"]) == (7, 20, record.started_at)
        assert running["left_s"] == record.created_at + 10_000 - report["now"]
        await served.runner.change(made.id, lambda each: each.enter(FinetuningStatus.PAUSED, 0))
        (paused,) = (await served.get("ann"))["jobs"]
        assert (paused["status"], paused["has_ended"], paused["left_s"]) == ("paused", False, None)


async def test_a_batch_is_paused_while_clients_are_served(tmp_path: Path) -> None:
    async with _served(tmp_path) as served:
        batch, context = await _batch(served.client("ann")), served.app.state.context

        def run(record: BatchRecord) -> None:
            record.enter(BatchStatus.IN_PROGRESS, record.created_at)
            record.model, record.total, record.completed, record.active_s = MODEL, 4, 1, 7.0

        await context.files.database.run(lambda connection: BATCHES.change(connection, batch.id, run))
        for stats, is_paused in (
            (StepStats(running_batch=2), False),
            (StepStats(running=1, paused_batch=2), True),
            (StepStats(waiting=1), True),
            (StepStats(), False),
        ):
            context.live.on_step(stats)
            (listed,) = (await served.get("ann"))["jobs"]
            own = (await served.get("ann", f"/dashboard/jobs/{batch.id}"))["job"]
            for each in (listed, own):
                assert (each["status"], each["is_paused"], each["left_s"]) == ("in_progress", is_paused, 21.0)
                assert (each["run_s"], each["paused_s"]) == (None, None)
        with context.live.pace.running(batch.id):
            (listed,) = (await served.get("ann"))["jobs"]
        assert listed["run_s"] > 0.0
        assert listed["paused_s"] == 0.0


async def test_the_operators_overview_has_unfinished_jobs_and_whose_they_are(tmp_path: Path) -> None:
    async with _served(tmp_path) as served:
        first, second = [(await create(served.client(name))).id for name in ("ann", "ben")]
        batch = await _batch(served.client("ben"))
        await served.runner.change(first, lambda each: each.enter(FinetuningStatus.FAILED, 0))
        report = await served.get("root", "/dashboard/server")
        assert {(each["id"], each["key"]) for each in report["jobs"]} == {(second, "ben"), (batch.id, "ben")}


async def test_unfinished_jobs_come_first_and_a_removed_keys_jobs_stay(tmp_path: Path) -> None:
    async with _served(tmp_path) as served:
        client = served.client("ann")
        first, second, third = [(await create(client)).id for _ in range(3)]
        await served.runner.change(second, lambda each: each.enter(FinetuningStatus.CANCELLED, 0))
        await served.runner.change(third, lambda each: each.enter(FinetuningStatus.FAILED, 0))
        assert (await served.get("ann"))["jobs"][0]["id"] == first
        ring = served.app.state.context.keys.ring
        ring.replace([each for each in ring.keys if each.name != "ann"])
        assert {each["key"] for each in (await served.get("root"))["jobs"]} == {"a removed key"}


_EVENTS = (
    JobEvent(created_at=1, message="Fine-tuning job started"),
    JobEvent(
        created_at=2,
        message="Step 1/2: training loss=1.5",
        kind="metrics",
        data={"step": 1, "train_loss": 1.5, "full_valid_loss": 1.25},
    ),
    JobEvent(created_at=3, message="Sample 1: a secret", data={"sample": 0, "epoch": 1, "text": "a secret"}),
    JobEvent(
        created_at=4,
        message="Step 2/2: mean reward=0.5",
        kind="metrics",
        data={"step": 2, "train_mean_reward": 0.5, "full_valid_mean_reward": 0.75},
    ),
)


async def test_a_jobs_curve_is_an_operators_too_and_its_texts_are_its_owners(tmp_path: Path) -> None:
    async with _served(tmp_path) as served:
        made = await create(served.client("ann"), suffix="plans")

        def fail(record: FinetuningRecord) -> None:
            record.enter(FinetuningStatus.FAILED, record.created_at + 9)
            record.error = FinetuningError("invalid_training_file", "line 3: a secret")
            record.checkpoints = [FinetuningCheckpoint(step=1, created_at=5)]

        record = await served.runner.change(made.id, fail)
        await served.runner.tell(made.id, *_EVENTS)
        path = f"/dashboard/jobs/{made.id}"
        own, others = await served.get("ann", path), await served.get("root", path)
        assert own["curve"] == others["curve"] == [[1, 1.5, 1.25, None, None], [2, None, None, 0.5, 0.75]]
        assert own["samples"] == [{"epoch": 1, "number": 0, "text": "a secret", "prompt": None}]
        assert own["notes"][-1] == {"at": 1.0, "level": "info", "message": "Fine-tuning job started"}
        assert own["training"]["error"] == "line 3: a secret"
        assert own["training"]["checkpoints"] == [{"name": record.checkpoint_name(1), "step": 1}]
        assert (others["notes"], others["samples"], others["job"]["key"]) == ([], [], "ann")
        assert others["training"]["error_code"] == "invalid_training_file"
        assert not {"secret", "plans"} & set(re.findall(r"[a-z]+", json.dumps(others)))


async def test_an_operator_sees_why_a_job_stands_still(tmp_path: Path) -> None:
    async with _served(tmp_path) as served:
        made = await create(served.client("ann"))
        stall = "Waiting: other programs keep the processors busy"
        await served.runner.tell(made.id, JobEvent(created_at=1, message=stall, level="warn"))
        assert (await served.get("root"))["jobs"][0]["waits_for"] == stall
        assert (await served.get("root", f"/dashboard/jobs/{made.id}"))["job"]["waits_for"] == stall
        await served.runner.tell(made.id, _EVENTS[1])
        assert (await served.get("root"))["jobs"][0]["waits_for"] is None


async def test_events_are_told_once_and_the_rest_on_demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "_MAX_EVENTS", 3)
    async with _served(tmp_path) as served:
        made = await create(served.client("ann"))
        await served.runner.tell(made.id, *_EVENTS)
        path = f"/dashboard/jobs/{made.id}"
        first = await served.get("ann", path)  # its creation is an event too
        assert (first["next_event"], first["has_more"], len(first["curve"])) == (3, True, 1)
        second = await served.get("ann", f"{path}?after=3")
        assert (second["next_event"], second["has_more"], len(second["curve"]), second["notes"]) == (5, False, 1, [])
        assert (await served.get("ann", f"{path}?after=5"))["next_event"] == 5


async def test_a_batchs_errors_are_its_owners(tmp_path: Path) -> None:
    async with _served(tmp_path) as served, batches_run(served.app):
        client = served.client("ann")
        lines = jsonl([chat_line("secret-a", temperature="hot"), chat_line("b")])
        file = await client.files.create(file=("lines.jsonl", lines), purpose="batch")
        made = await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
        batch = await ended(client, made.id)
        path = f"/dashboard/jobs/{batch.id}"
        own, others = await served.get("ann", path), await served.get("root", path)
        (failure,) = own["batch"]["failures"]
        assert (failure["custom_id"], failure["status"]) == ("secret-a", 400)
        assert "temperature" in failure["message"]
        assert own["batch"]["output_file_id"] == batch.output_file_id
        assert [others["job"][name] for name in ("done", "total", "failed")] == [2, 2, 1]
        assert others["batch"]["output_tokens"] == own["batch"]["output_tokens"] == len("Because.")
        assert (others["batch"]["failures"], others["batch"]["output_file_id"]) == ([], None)
        await client.files.delete(batch.error_file_id)
        assert (await served.get("ann", path))["batch"]["failures"] == []


async def test_a_refused_batch_says_why_to_its_owner(tmp_path: Path) -> None:
    async with _served(tmp_path) as served, batches_run(served.app):
        client = served.client("ann")
        file = await client.files.create(file=("lines.jsonl", b"{not json\n"), purpose="batch")
        made = await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
        await ended(client, made.id)
        path = f"/dashboard/jobs/{made.id}"
        own, others = (await served.get("ann", path))["batch"], (await served.get("root", path))["batch"]
        assert (own["num_input_faults"], [each["line"] for each in own["input_faults"]]) == (1, [1])
        assert (others["num_input_faults"], others["input_faults"]) == (1, [])


async def test_another_keys_job_is_not_found(tmp_path: Path) -> None:
    async with _served(tmp_path) as served, http(served.app) as api:
        batch, made = await _batch(served.client("ann")), await create(served.client("ann"))
        headers = {"authorization": "Bearer secret-ben"}
        for job_id in (batch.id, made.id, "ftjob-none"):
            answer = await api.get(f"/dashboard/jobs/{job_id}", headers=headers)
            assert (answer.status_code, job_id in answer.json()["error"]["message"]) == (404, True)


async def test_without_keys_everyone_sees_the_jobs(tmp_path: Path) -> None:
    app = make_app(FakeClient(says("Because.")), enable_lora=True, data_dir=str(tmp_path))
    made = await create(official(app, "none", Runner(app)))
    transport = httpx2.ASGITransport(app, client=_ELSEWHERE)
    async with httpx2.AsyncClient(transport=transport, base_url="http://server") as elsewhere:
        report = (await elsewhere.get("/dashboard/jobs")).json()
    assert [(each["id"], each["key"], each["is_own"]) for each in report["jobs"]] == [(made.id, "no key", True)]
    assert (report["is_everyones"], report["has_keys"]) == (False, False)


async def test_a_key_is_needed_where_there_are_keys(tmp_path: Path) -> None:
    async with _served(tmp_path) as served, http(served.app) as api:
        assert (await api.get("/dashboard/jobs")).status_code == 401
