"""A job that does not get on says why, once: clients, or other programs; not where it computes, or waits otherwise."""

import asyncio
import contextlib
from functools import partial

import pytest
from fastapi import FastAPI

from engine.child_processes.background import TRY_AGAIN
from server.config.finetuning import FinetuneYield
from server.finetuning.jobs import preparing, standstill, training
from server.finetuning.jobs.idle_gate import IdleGate
from server.finetuning.jobs.processor_use import ProcessorUse
from server.finetuning.jobs.standstill import Standstill
from server.schemas.finetune_answers import FinetuneStatus
from tests.helpers import fake_trainer
from tests.helpers.deadline import DEADLINE_S
from tests.helpers.fake_trainer import (
    KILLED,
    PREPARE,
    TRAIN,
    FakeChildren,
    add_job,
    events_of,
    finetunes,
    until_status,
)

pytestmark = [pytest.mark.fast, pytest.mark.usefixtures("in_no_time")]


class _Child:
    """computes: as a share of one processor. is_ready: as of ProcessorUse."""

    def __init__(self, job: "_Job", computes: float) -> None:
        self._job = job
        self.computes = computes
        self.is_ready = True

    def processor_use(self) -> ProcessorUse | None:
        return ProcessorUse(self.computes * self._job.now_s, self.is_ready)

    def stop(self) -> None:
        """It computes what it is told to."""

    def go_on(self) -> None:
        """So here."""


class _Job:
    """On a clock of its own, looked at each second."""

    def __init__(self, *, gives_way: bool = True, has_child: bool = True) -> None:
        self.now_s = 1000.0
        self.is_busy = False
        self.is_asking = False
        self.news = 0
        yields = FinetuneYield.ALWAYS if gives_way else FinetuneYield.NEVER
        gate = IdleGate(lambda: self.is_busy, yields, now=lambda: self.now_s)
        self._standstill = Standstill(gate, gives_way=gives_way, now=lambda: self.now_s)
        self.gate = gate
        self.child: _Child | None = None
        self._admitted = contextlib.ExitStack()
        if has_child:
            self.start()

    def start(self, computes: float = 0.0) -> None:
        """A process of it."""
        self.child = _Child(self, computes)
        self._admitted.enter_context(self.gate.admitted(self.child))  # type: ignore[arg-type] # all that the gate needs

    def end(self) -> None:
        """The process ends."""
        self._admitted.close()
        self.child = None

    def reasons(self, seconds: int) -> list[str]:
        """Those that are told in this time."""
        told = []
        for _ in range(seconds):
            self.now_s += 1.0
            self.gate.look()
            told.append(self._standstill.reason(self.news, self.child, is_asking=self.is_asking))
        return [each for each in told if each is not None]


@pytest.mark.parametrize("has_child", [True, False])
async def test_clients_that_keep_the_server_busy_are_told_once(has_child: bool) -> None:
    job = _Job(has_child=has_child)
    job.is_busy = True
    waiting = None if has_child else asyncio.create_task(job.gate.passed())
    await asyncio.sleep(0)
    assert job.reasons(59) == []
    (reason,) = job.reasons(600)
    assert "clients' requests" in reason
    assert "--finetune-yield share" in reason
    if waiting is not None:
        waiting.cancel()


def test_models_that_grade_are_named_and_not_the_gate_that_closes_for_them() -> None:
    job = _Job()
    job.is_busy = job.is_asking = True
    assert job.reasons(59) == []
    (reason,) = job.reasons(600)
    assert reason.startswith("Waiting: models that grade have not answered yet")


def test_clients_are_not_blamed_for_a_pause_between_processes() -> None:
    job = _Job()
    assert job.reasons(10) == []
    job.end()
    job.gate.note_request()
    job.now_s += 45.0  # in which nothing looks at the gate
    job.start(computes=0.9)
    assert job.reasons(100) == []


def test_a_process_that_began_of_late_has_had_no_time_to_compute() -> None:
    job = _Job()
    assert job.reasons(50) == []
    job.end()
    job.start()
    assert job.reasons(50) == []
    assert len(job.reasons(61)) == 1


def test_it_is_told_again_when_the_job_has_got_on_meanwhile() -> None:
    job = _Job()
    job.is_busy = True
    told = []
    for seconds in (100, 90, 200, 30, 100):  # before the next step
        told.append(len(job.reasons(seconds)))
        job.news += 1
    assert told == [1, 0, 0, 0, 1]


def test_a_processor_that_others_have_is_told_with_what_the_job_got() -> None:
    job = _Job()
    assert job.child is not None
    job.child.computes = 0.02
    (reason,) = job.reasons(600)
    assert (
        "the job got 1.2 s of processor time in the last 60 s; start the server with --finetune-yield never" in reason
    )


def test_a_job_that_gives_way_to_nobody_is_not_told_to() -> None:
    job = _Job(gives_way=False)
    (reason,) = job.reasons(100)
    assert reason.endswith("in the last 60 s; end them")


def test_a_job_that_computes_or_waits_for_a_disk_says_nothing() -> None:
    computing, waiting, unknown = _Job(), _Job(), _Job()
    assert computing.child is not None
    computing.child.computes = 0.3  # answers of the base, before the first step
    assert waiting.child is not None
    waiting.child.is_ready = False
    unknown.child = None
    assert [job.reasons(600) for job in (computing, waiting, unknown)] == [[], [], []]


def test_what_a_process_computed_before_does_not_count() -> None:
    job = _Job()
    assert job.child is not None
    job.child.computes = 0.9
    assert job.reasons(300) == []
    job.child.is_ready = True
    used = job.child.processor_use()
    job.child.processor_use = lambda: used  # type: ignore[method-assign]
    assert len(job.reasons(121)) == 1


@pytest.fixture
def app(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    monkeypatch.setattr("server.finetuning.jobs.children._LOOK_S", 0.002)
    monkeypatch.setattr("server.finetuning.jobs.preparing._LOOK_S", 0.002)
    monkeypatch.setattr(standstill, "_AFTER_S", 0.02)
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
    async with finetunes(app, children):
        job = await add_job(app, 1)
        await _until_waits(app, job.id, "clients' requests keep the server busy")
        assert not children.started
        client.num_open = 0
        await until_status(app, job.id, FinetuneStatus.SUCCEEDED)


@pytest.mark.parametrize("module", [PREPARE, TRAIN])
async def test_a_job_without_a_processor_has_an_event_that_says_so(module: str, app: FastAPI) -> None:
    children = FakeChildren()
    children.processor_use = ProcessorUse(0.0, is_ready=True)
    children.held.add(module)
    async with finetunes(app, children):
        job = await add_job(app, 1)
        await _until_waits(app, job.id, "other programs keep the processors busy")
        children.held.clear()
        await until_status(app, job.id, FinetuneStatus.SUCCEEDED)


@pytest.mark.parametrize("module", [PREPARE, TRAIN])
async def test_a_process_that_starts_after_a_pause_is_not_told_to_wait_for_others(
    module: str, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    async def pause(seconds: float) -> None:
        clock[0] += 100.0 if seconds >= 1.0 else 0.0
        await asyncio.sleep(0)

    monkeypatch.setattr(fake_trainer, "no_time", pause)
    monkeypatch.setattr(standstill, "_AFTER_S", 60.0)
    for each in (preparing, training):
        monkeypatch.setattr(each, "Standstill", partial(Standstill, now=lambda: clock[0]))
    children = FakeChildren()
    children.processor_use = ProcessorUse(0.0, is_ready=True)
    children.saves_steps = True
    children.pause_s = 0.02
    if module == PREPARE:
        children.preparing_ends += [(TRY_AGAIN, ""), (KILLED, "")]
    else:
        children.deaths += [TRY_AGAIN, KILLED]
    async with finetunes(app, children):
        job = await add_job(app, 1)
        await until_status(app, job.id, FinetuneStatus.SUCCEEDED)
    assert clock[0] >= 200.0
    assert await _waits(app, job.id) == []
