"""Requests about lines, by the process that prepares a job's files: they are answered, refused or aborted."""

import asyncio
from functools import partial
from pathlib import Path

import pytest
from fastapi import FastAPI

from engine.command_io.finetuning.mailbox import BodyQuestion
from engine.protocol import ServiceClass
from server.batches.running import run_body
from server.finetuning.jobs.folders import job_folder
from server.schemas.finetuning_answers import FinetuningStatus
from tests.helpers.deadline import until
from tests.helpers.fake_client import MODEL, FakeClient, Script, make_app, says
from tests.helpers.fake_trainer import (
    AnyAdapter,
    FakeChildren,
    add_job,
    ask,
    events_of,
    finetuning_runs,
    trained_client,
    until_status,
)
from tests.server.finetuning.jobs.test_file_preparation import READY

pytestmark = [pytest.mark.fast, pytest.mark.usefixtures("in_no_time")]


def _server(script: Script, folder: Path) -> tuple[FakeClient, FastAPI]:
    engine = FakeClient(script)
    engine.adapters = AnyAdapter()
    return engine, make_app(engine, enable_lora=True, data_dir=str(folder))


def _question(model: str = MODEL) -> BodyQuestion:
    return BodyQuestion("/v1/completions", {"model": model, "prompt": "How?", "max_tokens": 1})


async def test_requests_about_lines_are_answered_as_those_of_batches(tmp_path: Path) -> None:
    engine, app = _server(says("7"), tmp_path)
    children = FakeChildren()
    children.bodies = [_question(), _question("no")]
    async with finetuning_runs(app, children, partial(run_body, app.state.context)):
        record = await until_status(app, (await add_job(app, 1)).id, *READY)
        events = await events_of(app, record.id)
    assert record.status is not FinetuningStatus.FAILED
    assert [each.status_code for each in children.answers] == [200, 404]
    assert any(event.startswith("Scores and judgments of lines: ") for event in events)
    assert [request.service_class for request in engine.requests] == [ServiceClass.BATCH]


async def test_a_process_that_its_own_requests_suspend_reads_their_answers(tmp_path: Path) -> None:
    answered = asyncio.Event()
    engine, app = _server(lambda request: [answered, *says("7")(request)], tmp_path)
    children = FakeChildren()
    children.bodies = [_question()] * 3
    async with finetuning_runs(app, children, partial(run_body, app.state.context)):
        job = await add_job(app, 1)
        await until(lambda: engine.num_open == 3 and all(child.is_stopped for child in children.alive))
        answered.set()
        record = await until_status(app, job.id, *READY)
    assert record.status is not FinetuningStatus.FAILED
    assert [each.status_code for each in children.answers] == [200] * 3


async def test_a_canceled_job_aborts_its_requests_and_leaves_no_questions(tmp_path: Path) -> None:
    engine, app = _server(lambda _: [None], tmp_path)
    children = FakeChildren()
    children.bodies = [_question()] * 3
    async with finetuning_runs(app, children, partial(run_body, app.state.context)):
        job = await add_job(app, 1)
        await until(lambda: engine.num_open == 3)
        folder = job_folder(str(tmp_path), job.id)
        folder.answered.write_text("values of lines that were answered before")
        await ask(app, job.id, FinetuningStatus.CANCELLED)
        await until(lambda: not folder.answered.exists())
        assert {path.name for path in folder.path.iterdir()} <= {folder.lock.name}
        assert (engine.num_open, children.alive) == (0, set())
    assert children.answers == []


async def test_requests_of_a_key_that_is_gone_are_refused(tmp_path: Path) -> None:
    app = make_app(trained_client(), enable_lora=True, data_dir=str(tmp_path), api_key=["secret"])
    children = FakeChildren()
    children.bodies = [_question()]
    async with finetuning_runs(app, children, partial(run_body, app.state.context)):
        await until_status(app, (await add_job(app, 1)).id, *READY)
    assert [each.status_code for each in children.answers] == [401]
    assert b"the key that made the job is not accepted any more; create the job again" in children.answers[0].body
