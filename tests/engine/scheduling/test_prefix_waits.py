"""A burst with one new prefix: those behind the first are set aside, and hold up nobody meanwhile."""

import pytest

from engine.protocol import AbortReason, ServiceClass
from tests.helpers.engines import SchedulerRun, expected_ids, make_config, make_prompt, make_request

pytestmark = pytest.mark.fast

PREFIX = make_prompt(64)


def run_of(num_sharing: int, **config: int) -> SchedulerRun:
    run = SchedulerRun(make_config(num_blocks=400, **({"max_num_batched_tokens": 8} | config)))
    for number in range(num_sharing):
        run.add(make_request(f"s{number}", [*PREFIX, 1 + number % 30, 1], max_tokens=2))
    return run


def planned(run: SchedulerRun) -> dict[str, int]:
    run.step()
    return {name: num_new for name, num_new, _ in run.plans[-1]}


def test_many_that_share_a_prefix_hold_up_no_short_one_behind_them() -> None:
    run = run_of(100, max_num_batched_tokens=16)
    run.step()
    run.add(make_request("short", make_prompt(4, seed=9), max_tokens=1))
    assert planned(run) == {"s0": 12, "short": 4}


def test_all_that_share_a_prefix_end_and_compute_it_once() -> None:
    run = run_of(50)
    requests = [each.request for each in run.scheduler._lifecycle.sequences.values()]
    transcript = run.finish()
    assert transcript.ids == {each.id: expected_ids(each) for each in requests}
    assert sum(stats.prefill_tokens for stats in run.stats) == 64 + 2 * 50


def test_they_go_on_when_the_first_is_aborted() -> None:
    run = run_of(3)
    run.step()
    run.scheduler.abort("s0", AbortReason.CLIENT_GONE)
    assert planned(run) == {"s1": 8}


def test_one_that_waits_for_a_prefix_can_be_aborted() -> None:
    run = run_of(3)
    run.step()
    run.scheduler.abort("s1", AbortReason.CLIENT_GONE)
    assert list(run.finish().finish_reasons) == ["s1", "s0", "s2"]


def test_a_prefix_that_stands_still_is_not_waited_for() -> None:
    """That of a request in the background, which gets nothing beside others."""
    run = SchedulerRun(make_config(num_blocks=400, max_num_batched_tokens=8))
    run.add(make_request("background", [*PREFIX, 1], service_class=ServiceClass.BACKGROUND))
    run.step()
    run.add(make_request("sharing", [*PREFIX, 2]))
    assert planned(run) == {"background": 8}  # there is nothing to be gained by computing it twice
    run.add(make_request("other", make_prompt(200, seed=9)))
    run.add(make_request("later", make_prompt(200, seed=8)))
    for _ in range(4):
        run.step()
    assert "sharing" in {name for plan in run.plans for name, _, _ in plan}


@pytest.mark.parametrize("num_waiting", [8, 1000])
@pytest.mark.parametrize("kind", ["long", "sharing", "blocked", "tenants"])
def test_a_step_looks_at_few_of_those_that_wait(kind: str, num_waiting: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run = SchedulerRun(make_config(num_blocks=1000, block_size=16, max_num_seqs=4 if kind == "blocked" else 64))
    for number in range(num_waiting):
        prompt = [*PREFIX * 10, 1 + number % 30, 1] if kind == "sharing" else [1 + number % 30, 1 + number // 30] * 300
        tenant = str(number) if kind == "tenants" else ""
        run.scheduler.add(make_request(str(number), prompt, tenant=tenant))
    for _ in range(8):  # in which those that share a prefix are set aside
        _step(run)
    kv = run.scheduler._kv
    match, looked_at = kv.match, []
    monkeypatch.setattr(kv, "match", lambda sequence: (looked_at.append(sequence.id), match(sequence))[1])
    _step(run)
    assert len(looked_at) <= 40


def _step(run: SchedulerRun) -> None:
    """Without the checks, which look at all."""
    plan = run.scheduler.schedule()
    run.scheduler.update(plan, run.runner.execute(plan))
    run.scheduler.take_stats()
