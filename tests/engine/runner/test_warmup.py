"""The warm-up: each step once, and a second time to measure it, unless its time is known."""

import pytest

from engine.runner.warmup import WarmUpTimes, warm_up
from engine.scheduling.kv.groups import KVGroup
from engine.scheduling.plan import StepPlan
from engine.scheduling.sequence import Sequence

pytestmark = pytest.mark.fast

NUM_BLOCKS = 8


class _Runner:
    """Notes start and length of each step, and computes nothing."""

    kv_groups = (KVGroup(16),)

    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []
        self.released: list[str] = []

    def launch(self, plan: StepPlan) -> None:
        self.steps += [(item.start, item.num_new) for item in plan.items]

    def collect(self, _: None) -> None:
        pass

    def release(self, sequence: Sequence) -> None:
        self.released.append(sequence.request.id)


def _warm_up(known: WarmUpTimes | None) -> tuple[_Runner, WarmUpTimes, list[tuple[int, int]]]:
    """Return the runner, the times and the reports of a warm-up."""
    runner, reports = _Runner(), []

    def report(done: int, total: int) -> None:
        reports.append((done, total))

    times = warm_up(runner, num_blocks=NUM_BLOCKS, report=report, most_tokens=64, known=known)  # type: ignore[arg-type]
    assert runner.released == ["warm-up"]
    return runner, times, reports


def test_steps_are_measured_when_they_run_again() -> None:
    runner, times, reports = _warm_up(None)
    assert runner.steps == [(0, 32), (0, 64), (63, 1), (63, 1)]
    assert min(times) > 0
    assert reports == [(done, 4) for done in range(5)]


def test_steps_with_known_times_run_once_and_read_what_the_first_has_written() -> None:
    known = WarmUpTimes(0.001, 0.02)
    runner, times, reports = _warm_up(known)
    assert runner.steps == [(0, 32), (31, 1)]
    assert times == known
    assert reports == [(done, 2) for done in range(3)]
