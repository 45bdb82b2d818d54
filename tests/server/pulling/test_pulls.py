"""Pulls: one of a model at a time, joined by others, ended by the last who leaves."""

import asyncio
import re
from collections.abc import Callable

import pytest

from engine.command_io.pulling import PullMachine
from server.errors import NotStored, PullFailed, TooManyPulls
from server.metrics.values import Metrics
from server.pulling.pull import Pull
from server.pulling.pulls import Pulls
from tests.helpers.deadline import DEADLINE_S
from tests.helpers.scripted_pulls import PULLED, ScriptedFetch, downloaded

pytestmark = pytest.mark.fast


def _pulls(fetch: ScriptedFetch, metrics: Metrics | None = None) -> Pulls:
    return Pulls(["owner/*"], metrics or Metrics("tiny"), fetch)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0)


def _counts(metrics: Metrics) -> dict[str, float]:
    text = metrics.scrape("text/plain")[0].decode()
    found = re.findall(r'headrace[:_](pulls_running|pulls_total\{outcome="\w+"\}) ([0-9.]+)', text)
    return {name: float(value) for name, value in found if float(value)}


async def test_a_pull_reports_bytes_and_the_line_that_serves_the_model() -> None:
    fetch, metrics = ScriptedFetch(), Metrics("tiny")
    pull = _pulls(fetch, metrics).start("owner/a", is_kept=True)
    assert pull.view().state == "waiting"
    fetch.say("owner/a", PullMachine(5000), downloaded(10))
    await _until(lambda: pull.progress == downloaded(10))
    view = pull.view()
    assert (view.state, view.done, view.total, view.unit, view.free_bytes) == ("running", 10, 1000, "B", 5000)
    assert _counts(metrics) == {"pulls_running": 1}
    fetch.say("owner/a", PULLED)
    await _until(lambda: not pull.is_open)
    view = pull.view()
    assert (view.state, view.error, view.size_bytes, view.path) == ("complete", None, 1000, "/cache/model.gguf")
    assert view.serve is not None
    assert view.serve.endswith(" serve owner/a")
    assert view.memory is not None
    assert view.memory.severity == "ok"
    assert _counts(metrics) == {'pulls_total{outcome="complete"}': 1}


async def test_a_second_request_joins_the_pull_and_the_last_who_leaves_ends_it() -> None:
    fetch = ScriptedFetch()
    pulls = _pulls(fetch)
    first = pulls.start("owner/a", is_kept=False)
    async with first.watching():
        second = pulls.start("hf.co/owner/a", is_kept=False)
        assert second is first
        async with second.watching():
            await _until(lambda: fetch.begun == ["owner/a"])
        assert first.is_open
        assert pulls.num_watchers == 1
    await _until(lambda: not first.is_open)
    assert (first.view().state, first.view().error) == ("stopped", "the pull was stopped; the next one resumes")
    assert fetch.closed == ["owner/a"]


async def test_a_pull_that_is_kept_outlives_its_watchers() -> None:
    fetch = ScriptedFetch()
    pulls = _pulls(fetch)
    pull = pulls.start("owner/a", is_kept=False)
    async with pull.watching():
        assert pulls.start("owner/a", is_kept=True) is pull
    fetch.say("owner/a", PULLED)
    await _until(lambda: not pull.is_open)
    assert pull.view().state == "complete"


async def test_a_pull_that_was_left_before_it_began_is_stopped() -> None:
    fetch = ScriptedFetch()
    pull = _pulls(fetch).start("owner/a", is_kept=False)
    async with pull.watching():
        pass
    await _until(lambda: not pull.is_open)
    assert pull.view().state == "stopped"
    assert fetch.begun == []


async def test_a_stopped_pull_is_not_joined() -> None:
    fetch = ScriptedFetch()
    pulls = _pulls(fetch)
    first = pulls.start("owner/a", is_kept=True)
    await _until(lambda: bool(fetch.begun))
    pulls.stop(first.id)
    second = pulls.start("owner/a", is_kept=True)
    assert second is not first
    await _until(lambda: fetch.begun == ["owner/a"] * 2 and not first.is_open)
    assert [view.state for view in pulls.report().pulls] == ["running", "stopped"]
    await pulls.close()
    with pytest.raises(NotStored):
        pulls.stop("pull-0")


async def test_a_second_stop_has_no_effect() -> None:
    fetch = ScriptedFetch()
    pull = _pulls(fetch).start("owner/a", is_kept=True)
    await _until(lambda: bool(fetch.begun))
    pull.stop()
    pull.stop()
    assert pull.task is not None
    assert pull.task.cancelling() == 1
    await _until(lambda: not pull.is_open)


async def test_a_failure_is_the_pulls_own() -> None:
    fetch, metrics = ScriptedFetch(), Metrics("tiny")
    pulls = _pulls(fetch, metrics)
    failing, other = pulls.start("owner/a", is_kept=True), pulls.start("owner/b", is_kept=True)
    fetch.say("owner/a", PullFailed("the disk is full"))
    await _until(lambda: not failing.is_open)
    assert (failing.view().state, failing.view().error) == ("failed", "the disk is full")
    assert other.is_open
    fetch.say("owner/b", RuntimeError("a secret"))
    await _until(lambda: not other.is_open)
    assert other.view().error == "an internal error; the log has the details"
    assert _counts(metrics) == {'pulls_total{outcome="failed"}': 2}


async def test_a_few_run_at_once_and_the_others_wait() -> None:
    fetch = ScriptedFetch()
    pulls = _pulls(fetch)
    started = [pulls.start(f"owner/{number}", is_kept=True) for number in range(16)]
    await _until(lambda: len(fetch.begun) == 2)
    assert [pull.view().state for pull in started[:3]] == ["running", "running", "waiting"]
    assert started[2].view().stage == "wait for other pulls"
    with pytest.raises(TooManyPulls):
        pulls.start("owner/more", is_kept=True)
    fetch.say("owner/1", PULLED)
    await _until(lambda: started[2].view().state == "running")
    await pulls.close()
    await _until(lambda: not any(pull.is_open for pull in started))
    assert sorted(fetch.closed) == sorted(fetch.begun)


async def test_ended_pulls_are_forgotten_the_oldest_first() -> None:
    fetch = ScriptedFetch()
    pulls = _pulls(fetch)
    for number in range(30):
        fetch.say(f"owner/{number}", PULLED)
        pull: Pull = pulls.start(f"owner/{number}", is_kept=True)
        await _until(lambda pull=pull: not pull.is_open)  # type: ignore[misc]
    listed = [view.model for view in pulls.report().pulls]
    assert listed == [f"owner/{number}" for number in range(29, 8, -1)]
