"""Service classes: every class has its rules, and the scheduler follows them."""

import msgspec
import pytest

from engine.config import SchedulingPolicy
from engine.protocol import EngineRequest, ServiceClass
from engine.scheduling.queue import ServiceQueue, service_order
from engine.scheduling.sequence import Sequence
from engine.scheduling.service import SERVICE_RULES
from tests.helpers.engines import SchedulerRun, make_config, make_prompt, make_request


def audit(request: EngineRequest) -> EngineRequest:
    return msgspec.structs.replace(request, service_class=ServiceClass.AUDIT)


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
        run.scheduler.update(plan, run.runner.execute(plan))
    run.scheduler.add(make_request("c", make_prompt(5, seed=2), ignore_eos=True))
    assert [item.sequence.id for item in run.scheduler.schedule().items] == ["c"]
