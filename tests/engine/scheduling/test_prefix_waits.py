"""A burst with one new prefix: requests behind the first are set aside, and hold up no other meanwhile."""

import pytest

from engine.protocol import AbortReason, ServiceClass
from engine.protocol.sequence_events import WaitReason
from engine.scheduling.plan import run_step
from engine.scheduling.sequence import SequenceStatus
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
    """One that gets nothing beside urgent requests."""
    run = run_of(2)
    run.step()
    sharing = run.scheduler._lifecycle.sequences["s1"]
    assert sharing.wait_reason is WaitReason.PREFIX
    run.add(make_request("urgent", make_prompt(40, seed=9), service_class=ServiceClass.URGENT))
    run.step()
    assert planned(run) == {"urgent": 8}
    assert sharing.wait_reason is WaitReason.TOKENS


def test_nobody_waits_for_a_class_that_is_served_after_its_own() -> None:
    run = SchedulerRun(make_config(num_blocks=400, max_num_batched_tokens=8))
    background = make_request("background", [*PREFIX, 1], service_class=ServiceClass.BACKGROUND)
    run.add(background)
    run.step()
    sharing = make_request("sharing", [*PREFIX, 2])
    run.add(sharing)
    assert planned(run) == {"sharing": 8}
    transcript = run.finish()
    assert list(transcript.finish_reasons) == ["sharing", "background"]
    assert transcript.ids == {each.id: expected_ids(each) for each in (sharing, background)}


@pytest.mark.parametrize("ended", [["s1", "s2"], ["s0"], ["s0", "s1", "s2"]])
def test_none_that_has_ended_is_kept(ended: list[str]) -> None:
    """Neither whom others wait for, nor the last that wait: no later step may come."""
    run = run_of(3)
    run.step()
    for name in ended:
        run.scheduler.abort(name, AbortReason.CLIENT_GONE)
    run.step()  # and check
    waits = run.scheduler._planner._prefix_waits
    assert not {point.sequence.id for point in waits._waits}.intersection(ended)
    assert not {sequence.id for sequence in waits._points}.intersection(ended)


def test_a_burst_whose_prefix_is_computed_is_short_behind_long_prompts_of_its_tenant() -> None:
    """By what is left of its prompts, which is found beside one that runs and before one that waits."""
    run = SchedulerRun(make_config(num_blocks=1000, max_num_batched_tokens=16))
    run.add(make_request("running", make_prompt(200, seed=8), max_tokens=1))
    run.step()
    run.add(make_request("waiting", make_prompt(170, seed=9), max_tokens=1))
    for number in range(8):
        run.add(make_request(f"s{number}", [*PREFIX, 1 + number, 1], max_tokens=1))
    while len(run.transcript.finish_reasons) < 8:
        run.step()
    assert run.scheduler._lifecycle.sequences["waiting"].status is SequenceStatus.WAITING
    lengths = {each: sum(num for plan in run.plans for name, num, _ in plan if name == each) for each in ("s0", "s1")}
    assert lengths == {"s0": 66, "s1": 2}


def test_prompts_that_are_cached_no_more_hide_no_short_one() -> None:
    run = SchedulerRun(make_config(num_blocks=1000, max_num_batched_tokens=16))
    run.add(make_request("running", make_prompt(390, seed=8)))
    run.step()
    run.add(make_request("waiting", make_prompt(380, seed=9)))
    for number in range(40):
        run.add(make_request(f"evicted{number}", make_prompt(300, seed=10 + number)))
    lifecycle = run.scheduler._lifecycle
    for each in list(lifecycle.waiting):
        if each.id.startswith("evicted"):
            lifecycle.waiting.correct_length(each, 2)  # as it was when they came
    run.add(make_request("short", make_prompt(4, seed=7)))
    run.step()
    assert "short" in planned(run)


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
    run.scheduler.update(plan, run_step(run.runner, plan))
    run.scheduler.take_stats()
