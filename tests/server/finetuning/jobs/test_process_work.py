"""A stalled job has an event that says why, once; and none for the pauses between its processes."""

import asyncio
from functools import partial

import pytest
from fastapi import FastAPI

from engine.child_processes.background import TRY_AGAIN
from server.finetuning.jobs import process_work
from server.jobs import stalls
from server.jobs.child import ProcessorUse
from server.jobs.stalls import StallDetector
from server.schemas.finetuning_answers import FinetuningStatus
from tests.helpers import fake_trainer
from tests.helpers.deadline import DEADLINE_S
from tests.helpers.fake_trainer import (
    KILLED,
    PREPARE,
    TRAIN,
    FakeChildren,
    add_job,
    events_of,
    finetuning_runs,
    until_status,
)

pytestmark = [pytest.mark.fast, pytest.mark.usefixtures("in_no_time")]


@pytest.fixture
def app(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    monkeypatch.setattr("server.jobs.environment._LOOK_S", 0.002)
    monkeypatch.setattr("server.finetuning.jobs.file_preparation._LOOK_S", 0.002)
    monkeypatch.setattr(stalls, "_AFTER_S", 0.02)
    return app


async def _waits(app: FastAPI, job_id: str) -> list[str]:
    return [each for each in await events_of(app, job_id) if each.startswith("Waiting: ")]


async def _until_waits(app: FastAPI, job_id: str, reason: str) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not any(reason in each for each in await _waits(app, job_id)):
            await asyncio.sleep(0.001)


async def test_a_job_that_clients_let_not_begin_has_an_event_that_says_so(app: FastAPI) -> None:
    client = app.state.context.models.default.client
    client.num_open = 1
    children = FakeChildren()
    async with finetuning_runs(app, children):
        job = await add_job(app, 1)
        await _until_waits(app, job.id, "requests and lines of batches keep the server busy")
        assert not children.started
        client.num_open = 0
        await until_status(app, job.id, FinetuningStatus.SUCCEEDED)


@pytest.mark.parametrize("module", [PREPARE, TRAIN])
async def test_a_job_without_a_processor_has_an_event_that_says_so(module: str, app: FastAPI) -> None:
    children = FakeChildren()
    children.processor_use = ProcessorUse(0.0, is_ready=True)
    children.held.add(module)
    async with finetuning_runs(app, children):
        job = await add_job(app, 1)
        await _until_waits(app, job.id, "other programs keep the processors busy")
        children.held.clear()
        await until_status(app, job.id, FinetuningStatus.SUCCEEDED)


@pytest.mark.parametrize("module", [PREPARE, TRAIN])
async def test_a_process_that_starts_after_a_pause_is_not_told_to_wait_for_others(
    module: str, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    async def pause(seconds: float) -> None:
        clock[0] += 100.0 if seconds >= 1.0 else 0.0
        await asyncio.sleep(0)

    monkeypatch.setattr(fake_trainer, "no_time", pause)
    monkeypatch.setattr(stalls, "_AFTER_S", 60.0)
    monkeypatch.setattr(process_work, "StallDetector", partial(StallDetector, now=lambda: clock[0]))
    children = FakeChildren()
    children.processor_use = ProcessorUse(0.0, is_ready=True)
    children.saves_steps = True
    children.pause_s = 0.02
    if module == PREPARE:
        children.preparing_ends += [(TRY_AGAIN, ""), (KILLED, "")]
    else:
        children.deaths += [TRY_AGAIN, KILLED]
    async with finetuning_runs(app, children):
        job = await add_job(app, 1)
        await until_status(app, job.id, FinetuningStatus.SUCCEEDED)
    assert clock[0] >= 200.0
    assert await _waits(app, job.id) == []
