"""The preparation of a job's files: it waits for what will pass, and fails with the reason."""

import errno
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from fastapi import FastAPI

from engine.child_processes.background import LOCK_HELD, TRY_AGAIN
from engine.child_processes.lifetime import describe_exit
from engine.command_io.finetuning.data_preparation import PreparationOptions
from engine.command_io.finetuning.job import Hyperparameters, TrainingMethod
from server.data.report import DataReport
from server.finetuning.jobs import file_preparation
from server.finetuning.jobs.record import FinetuningRecord
from server.finetuning.scaling.training_report import training_time
from server.schemas.finetuning_answers import FinetuningStatus
from tests.helpers.fake_trainer import (
    KILLED,
    PLAN_JOB,
    PREPARE,
    TRAIN,
    FakeChildren,
    add_job,
    events_of,
    finetuning_runs,
    until_status,
)
from tests.helpers.training_plan import PLAN

pytestmark = [pytest.mark.fast, pytest.mark.usefixtures("in_no_time")]

READY = (FinetuningStatus.QUEUED, FinetuningStatus.RUNNING, FinetuningStatus.SUCCEEDED, FinetuningStatus.FAILED)


async def test_a_reason_that_the_process_gives_again_and_again_fails_the_job(app: FastAPI) -> None:
    children = FakeChildren()
    text = "read tokenizer\nheadrace: /srv/models/tiny/tokenizer.json is empty; download it again\n"
    children.preparing_ends += [(1, text)] * 3
    async with finetuning_runs(app, children):
        record = await until_status(app, (await add_job(app, 1)).id, *READY)

    assert record.error is not None
    assert record.error.code == "server_error"
    assert record.error.message == "the model's tokenizer cannot be read: tokenizer.json is empty; download it again"
    assert [child.module for child in children.started] == [PREPARE] * 3


async def test_a_reason_that_passes_is_none(app: FastAPI) -> None:
    children = FakeChildren()
    children.preparing_ends += [(1, "headrace: cannot reach the model's site: timed out\n")] * 2
    async with finetuning_runs(app, children):
        record = await until_status(app, (await add_job(app, 1)).id, *READY)
    assert record.status is not FinetuningStatus.FAILED


async def test_a_process_that_says_nothing_is_started_again(app: FastAPI) -> None:
    children = FakeChildren()
    children.preparing_ends += [(1, "Traceback (most recent call last)\nKeyError\n"), (-9, "")]
    async with finetuning_runs(app, children):
        record = await until_status(app, (await add_job(app, 1)).id, *READY)
    assert record.status is not FinetuningStatus.FAILED


async def test_what_will_pass_is_waited_for_and_told_once(app: FastAPI) -> None:
    children = FakeChildren()
    children.preparing_ends += [(TRY_AGAIN, "headrace: no space left\n")] * 4 + [(LOCK_HELD, "")] * 2
    async with finetuning_runs(app, children):
        job = await add_job(app, 1)
        record = await until_status(app, job.id, *READY)
        events = await events_of(app, job.id)

    assert record.status is not FinetuningStatus.FAILED
    waits = [event for event in events if "tried again" in event]
    assert waits == [
        "The server's disk is full; the files are tried again until there is room",
        "Another process works in the job's folder; the files are tried again when it has ended",
    ]


PREPARED = Hyperparameters(data_preparation=PreparationOptions())


async def test_what_is_prepared_and_its_report_are_files_of_the_key_after_the_job(app: FastAPI) -> None:
    async with finetuning_runs(app, FakeChildren()):
        job = await add_job(app, 1, hyperparameters=PREPARED)
        record = await until_status(app, job.id, FinetuningStatus.SUCCEEDED)
    files = app.state.context.files
    assert record.prepared_file is not None
    prepared = await files.find(record.prepared_file, "")
    report, _ = [await files.find(name, "") for name in record.result_files]
    assert (prepared.purpose, prepared.derived_from) == ("fine-tune", job.training_file)
    assert (report.purpose, report.filename) == ("fine-tune-results", "data_report.json")
    assert files.disk.read(prepared.id, 0, 100) == b"{}"
    assert set(files.disk.names()) == {job.training_file, prepared.id, *record.result_files}


async def test_a_job_without_room_for_its_prepared_file_trains_and_says_so(app: FastAPI) -> None:
    files = app.state.context.files
    async with finetuning_runs(app, FakeChildren()):
        job = await add_job(app, 1, hyperparameters=PREPARED)
        files.config = replace(files.config, max_files=1)
        record = await until_status(app, job.id, FinetuningStatus.SUCCEEDED)
        events = await events_of(app, job.id)
    assert (record.prepared_file, record.result_files) == (None, [])
    assert any("data_report.json is not stored: " in event for event in events)
    assert files.disk.names() == [job.training_file]


async def _report(app: FastAPI, record: FinetuningRecord) -> DataReport:
    files = app.state.context.files
    report = await files.find(record.result_files[0], "")
    return msgspec.json.decode(files.disk.read(report.id, 0, report.bytes), type=DataReport)


async def test_the_report_of_a_job_has_the_expected_time_of_its_training(app: FastAPI) -> None:
    async with finetuning_runs(app, FakeChildren()):
        job = await add_job(app, 1, hyperparameters=PREPARED)
        record = await until_status(app, job.id, FinetuningStatus.SUCCEEDED)
    assert (await _report(app, record)).training == training_time(PLAN)


async def test_a_job_that_cannot_be_planned_says_why_and_trains(app: FastAPI) -> None:
    children = FakeChildren()
    children.plan_ends.append((1, "read tokenizer\nheadrace: an example is too long; give --max-length 8 or less\n"))
    async with finetuning_runs(app, children):
        job = await add_job(app, 1, hyperparameters=PREPARED)
        record = await until_status(app, job.id, FinetuningStatus.SUCCEEDED)
        events = await events_of(app, job.id)
    assert (await _report(app, record)).training is None
    reason = "an example is too long; give max_length 8 or less"
    assert f"The report has no expected training time: {reason}" in events


async def test_a_plan_that_was_ended_from_outside_is_made_again_and_the_lines_are_not(app: FastAPI) -> None:
    children = FakeChildren()
    children.plan_ends.append((143, ""))
    async with finetuning_runs(app, children):
        job = await add_job(app, 1, hyperparameters=PREPARED)
        record = await until_status(app, job.id, FinetuningStatus.SUCCEEDED)
    assert (await _report(app, record)).training == training_time(PLAN)
    assert [child.module for child in children.started] == [PREPARE, PLAN_JOB, PLAN_JOB, TRAIN]


@pytest.mark.parametrize("code", [KILLED, TRY_AGAIN, LOCK_HELD])
async def test_a_plan_that_is_always_ended_leaves_the_time_out_and_says_why(
    app: FastAPI, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    children = FakeChildren()
    children.plan_ends += [(code, "")] * 9
    async with finetuning_runs(app, children):
        job = await add_job(app, 1, hyperparameters=PREPARED)
        record = await until_status(app, job.id, *READY[2:])
        events = await events_of(app, job.id)
    assert record.error is None
    assert (await _report(app, record)).training is None
    message = f"The report has no expected training time: {describe_exit(code)}"
    assert message in events
    assert f"fine-tuning job {job.id}: {message}" in caplog.messages
    assert [child.module for child in children.started] == [PREPARE, PLAN_JOB, PLAN_JOB, TRAIN]


async def test_a_plan_that_cannot_be_stored_leaves_the_time_out(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(file_preparation, "add_training_time", fails)
    async with finetuning_runs(app, FakeChildren()):
        job = await add_job(app, 1, hyperparameters=PREPARED)
        record = await until_status(app, job.id, FinetuningStatus.SUCCEEDED)
        events = await events_of(app, job.id)
    assert (await _report(app, record)).training is None
    assert "The report has no expected training time: No space left on device" in events


@pytest.mark.parametrize(
    ("method", "given"),
    [(TrainingMethod.REINFORCEMENT, PREPARED), (TrainingMethod.SUPERVISED, Hyperparameters())],
)
async def test_only_prepared_jobs_of_known_length_are_planned(
    app: FastAPI, method: TrainingMethod, given: Hyperparameters
) -> None:
    children = FakeChildren()
    async with finetuning_runs(app, children):
        job = await add_job(app, 1, method=method, hyperparameters=given)
        await until_status(app, job.id, FinetuningStatus.SUCCEEDED)
    assert PLAN_JOB not in {child.module for child in children.started}
