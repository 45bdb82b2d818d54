"""Which fine-tuning jobs are worked on: one at a time, from their files to their end, whatever happens meanwhile."""

import errno
import json
import shutil
from collections import deque
from pathlib import Path

import pytest
from fastapi import FastAPI

from engine.child_processes.background import LOCK_HELD, TRY_AGAIN
from server.finetuning.jobs import progress, training
from server.finetuning.jobs.folders import out_folder
from server.finetuning.jobs.record import FinetuningRecord
from server.finetuning.jobs.table import FINETUNING_JOBS
from server.schemas.finetuning_answers import FinetuningStatus
from tests.helpers.deadline import until
from tests.helpers.fake_client import FakeClient, http, make_app, says
from tests.helpers.fake_trainer import (
    KILLED,
    PREPARE,
    TRAIN,
    FakeChildren,
    add_job,
    ask,
    events_of,
    finetuning_runs,
    stored,
    until_status,
    whole_adapter,
)

pytestmark = [pytest.mark.fast, pytest.mark.usefixtures("in_no_time")]

ENDED = (FinetuningStatus.SUCCEEDED, FinetuningStatus.FAILED, FinetuningStatus.CANCELLED)


def adapter_of(app: FastAPI, job_id: str) -> list[str]:
    folder = out_folder(app.state.context.config.data_dir, job_id)
    found: list[str] = json.loads((folder / "adapter_model.safetensors").read_text())
    return found


async def test_a_job_goes_from_its_file_to_an_adapter_that_answers(app: FastAPI) -> None:
    async with finetuning_runs(app, FakeChildren()):
        job = await add_job(app, 1)
        record = await until_status(app, job.id, *ENDED)

        assert record.status is FinetuningStatus.SUCCEEDED
        assert (record.trained_tokens, record.step, record.resolved and record.resolved.total_steps) == (60, 6, 6)
        assert [each.step for each in record.checkpoints] == [3, 6]
        assert record.checkpoints[0].metrics == {"train_loss": 0.5}
        assert adapter_of(app, job.id) == whole_adapter()
        async with http(app) as client:
            names = [each["id"] for each in (await client.get("/v1/models")).json()["data"]]
            assert names[1:] == [f"{job.name}:ckpt-step-3", f"{job.name}:ckpt-step-6", job.name]
            chat = {"model": job.name, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
            assert (await client.post("/v1/chat/completions", json=chat)).status_code == 200
            results = await client.get(f"/v1/files/{record.result_files[0]}/content")
            assert results.text.startswith("step,train_loss\n0,")
    events = await events_of(app, job.id)
    assert [each for each in events if each.startswith("Step")] == [f"Step {n}" for n in range(1, 7)]
    assert events[-1] == "The job has successfully completed"


async def test_what_a_job_learned_from_is_deleted_at_its_end(app: FastAPI) -> None:
    async with finetuning_runs(app, FakeChildren()):
        job = await add_job(app, 1)
        await until_status(app, job.id, *ENDED)
        folder = out_folder(app.state.context.config.data_dir, job.id) / "job"
        await until(lambda: not (folder / "state.safetensors").exists() and not (folder / "job.json").exists())
        assert (folder / "results.csv").exists()


async def test_jobs_train_one_after_the_other_in_order(app: FastAPI) -> None:
    children = FakeChildren()
    async with finetuning_runs(app, children):
        jobs = [await add_job(app, number) for number in range(3)]
        for job in jobs:
            await until_status(app, job.id, *ENDED)
    assert children.most == {PREPARE: 1, TRAIN: 1}
    trained = [each.folder.path.parent.name for each in children.started if each.module == TRAIN]
    assert trained == [job.id for job in jobs]


async def test_a_file_with_faults_fails_the_job_with_an_event_for_each(app: FastAPI) -> None:
    async with finetuning_runs(app, FakeChildren()):
        job = await add_job(app, 1, b"{}\nbad\n{}\nbad\n")
        record = await until_status(app, job.id, *ENDED)
    assert record.error is not None
    assert (record.error.code, record.error.param) == ("invalid_training_file", "training_file")
    assert "line 2: it is bad (and 1 more faults" in record.error.message
    events = await events_of(app, job.id)
    assert [each for each in events if "line" in each][:2] == [
        "training_file: line 2: it is bad",
        "training_file: line 4: it is bad",
    ]


async def test_a_canceled_job_has_no_process_and_leaves_the_next_one_its_place(app: FastAPI) -> None:
    children = FakeChildren()
    children.pause_s = 0.01
    async with finetuning_runs(app, children):
        first, second = [await add_job(app, number) for number in (1, 2)]
        await until(lambda: children.of(first.id))
        child = children.of(first.id)
        assert child is not None
        await ask(app, first.id, FinetuningStatus.CANCELLED)
        await until(lambda: not child.is_alive)
        assert await child.wait() == KILLED
        assert (await until_status(app, second.id, *ENDED)).status is FinetuningStatus.SUCCEEDED
    assert (await stored(app, first.id)).status is FinetuningStatus.CANCELLED
    assert app.state.context.models.adapters.get(first.name) is None


async def test_a_paused_job_saves_what_it_has_and_goes_on_with_that(app: FastAPI) -> None:
    children = FakeChildren()
    children.pause_s = 0.005
    async with finetuning_runs(app, children):
        job = await add_job(app, 1)
        await until(lambda: children.of(job.id))
        await ask(app, job.id, FinetuningStatus.PAUSED)
        await until(lambda: not children.alive)
        assert (await stored(app, job.id)).status is FinetuningStatus.PAUSED
        await ask(app, job.id, FinetuningStatus.QUEUED)
        await until_status(app, job.id, *ENDED)
    assert adapter_of(app, job.id) == whole_adapter()


async def test_a_job_goes_on_though_a_loss_of_power_has_cut_the_trainer_s_events(app: FastAPI) -> None:
    def know_more_than_there_is(record: FinetuningRecord) -> None:
        record.events_bytes = 1 << 20

    async with finetuning_runs(app, FakeChildren()):
        job = await add_job(app, 1, status=FinetuningStatus.PAUSED, is_prepared=False)
        database = app.state.context.files.database
        await database.run(lambda connection: FINETUNING_JOBS.change(connection, job.id, know_more_than_there_is))
        await ask(app, job.id, FinetuningStatus.VALIDATING_FILES)
        assert (await until_status(app, job.id, *ENDED)).status is FinetuningStatus.SUCCEEDED
    events = await events_of(app, job.id)
    assert events.count("The adapter is complete") == 1
    assert not any("ended unexpectedly" in each for each in events)


async def test_all_that_an_ended_trainer_has_told_is_taken_however_much_it_is(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_MAX_BYTES", 300)
    monkeypatch.setattr(training, "_LOOK_S", 60.0)  # at what it tells while it lives: once
    children = FakeChildren()
    async with finetuning_runs(app, children):
        job = await add_job(app, 1)
        assert (await until_status(app, job.id, *ENDED)).status is FinetuningStatus.SUCCEEDED
    assert [each.module for each in children.started] == [PREPARE, TRAIN]


async def test_a_paused_job_lets_others_train(app: FastAPI) -> None:
    children = FakeChildren()
    async with finetuning_runs(app, children):
        first = await add_job(app, 1, status=FinetuningStatus.PAUSED)
        second = await add_job(app, 2)
        assert (await until_status(app, second.id, *ENDED)).status is FinetuningStatus.SUCCEEDED
    assert (await stored(app, first.id)).status is FinetuningStatus.PAUSED


async def test_a_killed_process_is_started_again_and_the_result_is_the_same(app: FastAPI) -> None:
    children = FakeChildren()
    children.saves_steps = True
    children.deaths = deque([KILLED, 128, KILLED, KILLED])  # each after a new step
    async with finetuning_runs(app, children):
        job = await add_job(app, 1)
        record = await until_status(app, job.id, *ENDED)
    assert record.status is FinetuningStatus.SUCCEEDED
    assert adapter_of(app, job.id) == whole_adapter()
    events = await events_of(app, job.id)
    assert sum("ended unexpectedly" in each for each in events) == 4
    assert [each for each in events if each.startswith("Step")] == [f"Step {n}" for n in range(1, 7)]


async def test_a_process_that_dies_again_and_again_fails_the_job(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    children = FakeChildren()
    children.deaths = deque([KILLED] * 100)
    monkeypatch.setattr("tests.helpers.fake_trainer.STEPS_PER_EPOCH", 1000)  # so that nothing is ever saved
    async with finetuning_runs(app, children):
        job = await add_job(app, 1)
        record = await until_status(app, job.id, *ENDED)
    assert record.error is not None
    assert record.error.code == "server_error"
    assert "signal 9 (SIGKILL, often sent by the system for lack of memory)" in record.error.message


async def test_a_trainer_that_says_why_fails_the_job_in_the_words_of_requests(app: FastAPI) -> None:
    children = FakeChildren()
    children.deaths = deque([1])
    async with finetuning_runs(app, children):
        job = await add_job(app, 1)
        record = await until_status(app, job.id, *ENDED)
    assert record.error is not None
    assert (record.error.code, record.error.message) == ("training_failed", "give a smaller max_length")


@pytest.mark.parametrize(("code", "cause"), [(TRY_AGAIN, "disk is full"), (LOCK_HELD, "Another process works")])
@pytest.mark.parametrize(("saves_steps", "count"), [(False, 1), (True, 4)])
async def test_what_passes_is_waited_for_and_told_once_a_step(
    app: FastAPI, code: int, cause: str, saves_steps: bool, count: int
) -> None:
    children = FakeChildren()
    children.saves_steps = saves_steps
    children.deaths = deque([code] * 4)  # each after a step
    async with finetuning_runs(app, children):
        job = await add_job(app, 1)
        record = await until_status(app, job.id, *ENDED)
    assert record.status is FinetuningStatus.SUCCEEDED
    events = [each for each in await events_of(app, job.id) if "continues from its saved state" in each]
    assert len(events) == count
    assert all(cause in each for each in events)


async def test_a_process_that_cannot_be_started_is_waited_for(app: FastAPI) -> None:
    children = FakeChildren()
    children.failures = deque([OSError(errno.EMFILE, "Too many open files")] * 3)
    async with finetuning_runs(app, children):
        job = await add_job(app, 1, status=FinetuningStatus.PAUSED)
        await ask(app, job.id, FinetuningStatus.VALIDATING_FILES)
        record = await until_status(app, job.id, *ENDED)
    assert record.status is FinetuningStatus.SUCCEEDED
    events = await events_of(app, job.id)
    assert [each for each in events if "Too many open files" in each] == [
        "The server cannot run the training process (Too many open files); training continues from its saved "
        "state when that has passed"
    ]


async def test_a_job_without_its_files_fails(app: FastAPI) -> None:
    children = FakeChildren()
    children.pause_s = 0.005
    async with finetuning_runs(app, children):
        job = await add_job(app, 1)
        await until(lambda: children.of(job.id))
        await ask(app, job.id, FinetuningStatus.PAUSED)
        await until(lambda: not children.alive)
        shutil.rmtree(out_folder(app.state.context.config.data_dir, job.id))
        await ask(app, job.id, FinetuningStatus.QUEUED)
        record = await until_status(app, job.id, *ENDED)
    assert record.error is not None
    assert (record.error.code, record.error.message) == (
        "server_error",
        "the job's files are no longer on the server's disk; create the job again",
    )


async def test_a_job_stands_still_while_a_client_is_answered(app: FastAPI) -> None:
    children = FakeChildren()
    children.pause_s = 0.005
    engine = app.state.context.models.default.client
    async with finetuning_runs(app, children):
        job = await add_job(app, 1)
        await until(lambda: children.of(job.id))
        child = children.of(job.id)
        assert child is not None
        app.state.context.models.arrivals.notify()
        engine.num_open = 1
        assert child.is_stopped
        metrics = app.state.context.metrics
        await until(lambda: metrics.value("finetune_stopped_seconds_total") > 0.05)
        assert child.is_alive
        assert child.is_stopped
        engine.num_open = 0
        assert (await until_status(app, job.id, *ENDED)).status is FinetuningStatus.SUCCEEDED


async def test_adapters_have_their_names_again_after_a_restart(app: FastAPI) -> None:
    async with finetuning_runs(app, FakeChildren()):
        job = await add_job(app, 1)
        await until_status(app, job.id, *ENDED)
    adapters = app.state.context.models.adapters
    for each in list(adapters):
        adapters.remove(each.name, app.state.context.models.default)

    async with finetuning_runs(app, FakeChildren()):
        assert [each.name for each in adapters] == [f"{job.name}:ckpt-step-3", f"{job.name}:ckpt-step-6", job.name]
        await until(lambda: all(each.info is not None for each in adapters))


async def test_an_adapter_that_cannot_be_served_again_is_no_reason_not_to_start(app: FastAPI) -> None:
    async with finetuning_runs(app, FakeChildren()):
        job = await add_job(app, 1)
        await until_status(app, job.id, *ENDED)
    context = app.state.context
    for each in list(context.models.adapters):
        context.models.adapters.remove(each.name, context.models.default)
    context.models.default.client.adapters = {}

    async with finetuning_runs(app, FakeChildren()):
        await context.models.adapters.read_all(context.models.default)
        await until(lambda: not list(context.models.adapters))


async def test_a_job_of_a_model_without_adapters_says_that_its_result_is_not_served(tmp_path: Path) -> None:
    app = make_app(FakeClient(says("yes")), data_dir=str(tmp_path))
    async with finetuning_runs(app, FakeChildren()):
        job = await add_job(app, 1)
        record = await until_status(app, job.id, *ENDED)
    assert record.status is FinetuningStatus.SUCCEEDED
    assert any(f"The adapter {job.name} is not served" in each for each in await events_of(app, job.id))


async def test_the_owner_deletes_an_adapter_and_its_files(app: FastAPI) -> None:
    async with finetuning_runs(app, FakeChildren()):
        job = await add_job(app, 1)
        await until_status(app, job.id, *ENDED)
        folder = out_folder(app.state.context.config.data_dir, job.id)
        async with http(app) as client:
            for name in (job.name, f"{job.name}:ckpt-step-3"):
                assert (await client.delete(f"/v1/models/{name}")).json()["deleted"]
                assert (await client.get(f"/v1/models/{name}")).status_code == 404
            assert (await client.get(f"/v1/models/{job.name}:ckpt-step-6")).status_code == 200
        assert not (folder / "adapter_config.json").exists()
        assert not (folder / "checkpoints" / "step-3").exists()
        assert (folder / "checkpoints" / "step-6" / "adapter_config.json").exists()
    record = await stored(app, job.id)
    assert [each.step for each in record.checkpoints] == [6]
    assert not record.has_adapter
