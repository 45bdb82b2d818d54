"""Service classes: every class has its rules, and the scheduler follows them."""

from typing import Any

import msgspec
import pytest

from engine.config import SchedulingPolicy
from engine.protocol import EngineRequest, ServiceClass
from engine.scheduling.fairness.service_queue import ServiceQueue, service_order
from engine.scheduling.fairness.service_rules import SERVICE_RULES
from engine.scheduling.plan import run_step
from engine.scheduling.sequence import Sequence
from tests.helpers.engines import SchedulerRun, make_config, make_prompt, make_request


def audit(request: EngineRequest) -> EngineRequest:
    return msgspec.structs.replace(request, service_class=ServiceClass.AUDIT)


def background(name: str, length: int = 5, **fields: Any) -> EngineRequest:
    return _request(name, length, ServiceClass.BACKGROUND, **fields)


def interactive(name: str, length: int = 5, **fields: Any) -> EngineRequest:
    return _request(name, length, ServiceClass.INTERACTIVE, **fields)


def _request(name: str, length: int, service_class: ServiceClass, **fields: Any) -> EngineRequest:
    prompt = make_prompt(length, seed=sum(name.encode()))
    return make_request(name, prompt, ignore_eos=True, service_class=service_class, **fields)


def planned(run: SchedulerRun) -> dict[str, int]:
    """The tokens of each sequence in the next step, which is made."""
    run.step()
    return {name: num_new for name, num_new, _ in run.plans[-1]}


def sequence_of(request: EngineRequest) -> Sequence:
    return Sequence(request=request, seed=0, tokens=list(request.prompt_ids), num_prompt=len(request.prompt_ids))


def test_every_class_has_rules() -> None:
    assert set(SERVICE_RULES) == set(ServiceClass)


@pytest.mark.parametrize("policy", SchedulingPolicy)
def test_a_lower_rank_is_served_first_whatever_the_priority(policy: SchedulingPolicy) -> None:
    queue = ServiceQueue()
    requests = [audit(make_request("a", [1], priority=-9)), make_request("b", [1], priority=9)]
    for number, request in enumerate(requests):
        sequence = sequence_of(request)
        sequence.order = service_order(policy, sequence, number)
        queue.add(sequence)
    assert [sequence.id for sequence in queue] == ["b", "a"]


@pytest.mark.parametrize("policy", SchedulingPolicy)
def test_clients_are_served_by_class_and_then_by_policy(policy: SchedulingPolicy) -> None:
    run = SchedulerRun(make_config(max_num_seqs=1, scheduling_policy=policy))
    classes = [ServiceClass.BACKGROUND, ServiceClass.INTERACTIVE, ServiceClass.URGENT]
    transcript = run.run(
        make_request(f"{each.value} {priority}", [1], max_tokens=2, priority=priority, service_class=each)
        for each in classes
        for priority in (1, 0)
    )
    within = (0, 1) if policy is SchedulingPolicy.PRIORITY else (1, 0)
    expected = [f"{each.value} {priority}" for each in reversed(classes) for priority in within]
    assert list(transcript.finish_reasons) == expected


def test_background_runs_beside_others_where_there_is_room() -> None:
    run = SchedulerRun(make_config(max_num_seqs=2))
    run.add(background("a"))
    run.step()
    run.add(interactive("b"))
    assert planned(run) == {"b": 5, "a": 1}
    assert planned(run) == {"b": 1, "a": 1}
    assert sum(stats.preemptions for stats in run.stats) == 0


def test_background_gives_up_its_place_for_one_that_waits() -> None:
    run = SchedulerRun(make_config(max_num_seqs=1))
    run.add(background("a"))
    run.step()
    run.add(interactive("b"))
    assert planned(run) == {"b": 5}
    assert list(run.finish().finish_reasons) == ["b", "a"]


def test_background_gives_up_as_many_blocks_as_are_wanted() -> None:
    run = SchedulerRun(make_config(num_blocks=16))
    for name in "abc":
        run.add(background(name, 13, max_tokens=3))  # 4 blocks each
    run.step()
    run.add(interactive("d", 29, max_tokens=3))  # 8 blocks
    assert planned(run) == {"d": 29, "a": 1, "b": 1}


def test_a_long_prompt_in_the_background_does_not_delay_another_one() -> None:
    run = SchedulerRun(make_config(max_num_batched_tokens=8))
    run.add(background("a", 40))
    assert planned(run) == {"a": 8}
    run.add(interactive("b", 12))
    assert planned(run) == {"b": 8}
    assert planned(run) == {"b": 4, "a": 4}


def test_background_waits_while_one_before_it_waits_for_room() -> None:
    run = SchedulerRun(make_config(num_blocks=8))
    run.add(interactive("a", 17, max_tokens=4))  # 5 blocks and more
    run.step()
    run.add(interactive("b", 20, max_tokens=4))
    run.add(background("c", 2, max_tokens=1))
    for _ in range(3):
        assert planned(run) == {"a": 1}
    assert planned(run) == {"b": 20, "c": 2}


def test_a_queue_counts_the_classes_that_count() -> None:
    queue = ServiceQueue()
    sequences = [sequence_of(request) for request in (make_request("a", [1]), audit(make_request("b", [1])))]
    for number, sequence in enumerate(sequences):
        sequence.order = service_order(SchedulingPolicy.FCFS, sequence, number)
        queue.add(sequence)
    assert (len(queue), queue.num_counted) == (2, 1)
    for sequence in sequences:
        queue.remove(sequence)
    assert queue.num_counted == 0


def test_a_class_that_yields_is_preempted_for_one_that_waits_and_for_no_other() -> None:
    run = SchedulerRun(make_config(max_num_seqs=1))
    run.scheduler.add(audit(make_request("a", make_prompt(5), ignore_eos=True)))
    run.scheduler.add(audit(make_request("b", make_prompt(5, seed=1), ignore_eos=True)))
    for _ in range(2):
        plan = run.scheduler.schedule()
        assert [item.sequence.id for item in plan.items] == ["a"]
        run.scheduler.update(plan, run_step(run.runner, plan))
    run.scheduler.add(make_request("c", make_prompt(5, seed=2), ignore_eos=True))
    assert [item.sequence.id for item in run.scheduler.schedule().items] == ["c"]


def test_waiting_sequences_are_counted_by_class() -> None:
    run = SchedulerRun(make_config(max_num_seqs=1))
    run.add(_request("u", 5, ServiceClass.URGENT))
    run.add(_request("v", 5, ServiceClass.URGENT))
    for name in ("a", "b", "c"):
        run.add(background(name))
    run.add(interactive("i"))
    run.add(audit(interactive("x")))
    run.step()
    stats = run.stats[-1]
    assert (stats.running, stats.waiting, stats.waiting_urgent, stats.waiting_background) == (1, 5, 1, 3)
