"""A job that does not get on says why, once: clients, or other programs; not where it computes, or waits otherwise."""

import asyncio
import contextlib

import pytest

from server.jobs.child import ProcessorUse
from server.jobs.idle_gate import IdleGate
from server.jobs.stalls import StallDetector

pytestmark = pytest.mark.fast


class _Child:
    """computes: as a share of one processor. is_ready: as of ProcessorUse."""

    def __init__(self, job: "_Job", computes: float) -> None:
        self._job = job
        self.computes = computes
        self.is_ready = True

    def processor_use(self) -> ProcessorUse | None:
        return ProcessorUse(self.computes * self._job.now_s, self.is_ready)

    def suspend(self) -> None:
        """It computes what it is told to."""

    def resume(self) -> None:
        """So here."""


class _Job:
    """On a clock of its own, looked at each second."""

    def __init__(self, *, gives_way: bool = True, has_child: bool = True) -> None:
        self.now_s = 1000.0
        self.is_busy = False
        self.known_reason: str | None = None
        self.progress = 0
        gate = IdleGate(lambda: self.is_busy, is_active=gives_way, now=lambda: self.now_s)
        self._stalls = StallDetector(gate, gives_way=gives_way, now=lambda: self.now_s)
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
            told.append(self._stalls.reason(self.progress, self.child, known_reason=self.known_reason))
        return [each for each in told if each is not None]


@pytest.mark.parametrize("has_child", [True, False])
async def test_clients_that_keep_the_server_busy_are_told_once(has_child: bool) -> None:
    job = _Job(has_child=has_child)
    job.is_busy = True
    waiting = None if has_child else asyncio.create_task(job.gate.wait_until_open())
    await asyncio.sleep(0)
    assert job.reasons(59) == []
    (reason,) = job.reasons(600)
    assert "lines of batches" in reason
    assert "--finetune-yield share" in reason
    if waiting is not None:
        waiting.cancel()


def test_a_known_reason_goes_before_a_gate_that_is_closed() -> None:
    job = _Job()
    job.is_busy, job.known_reason = True, "Waiting: models that grade have not answered yet"
    assert job.reasons(59) == []
    assert job.reasons(600) == [job.known_reason]


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
        job.progress += 1
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
