"""Room for those that wait: taken from worse priorities, never in vain, and no more than is needed."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import SchedulingPolicy
from engine.protocol import EngineRequest
from tests.helpers.engines import SchedulerRun, expected_ids, make_config, make_prompt, make_request

pytestmark = pytest.mark.fast


def request(name: str, length: int = 5, **fields: Any) -> EngineRequest:
    return make_request(name, make_prompt(length, seed=sum(name.encode())), ignore_eos=True, **fields)


def by_priority(**config: Any) -> SchedulerRun:
    return SchedulerRun(make_config(scheduling_policy=SchedulingPolicy.PRIORITY, **config))


def planned(run: SchedulerRun) -> dict[str, int]:
    run.step()
    return {name: num_new for name, num_new, _ in run.plans[-1]}


def preemptions(run: SchedulerRun) -> dict[str, int]:
    total: dict[str, int] = {}
    for stats in run.stats:
        for reason, number in stats.preemptions_by_reason.items():
            total[reason] = total.get(reason, 0) + number
    assert sum(total.values()) == sum(stats.preemptions for stats in run.stats)
    return total


def test_a_better_priority_takes_the_place_of_the_worst() -> None:
    run = by_priority(max_num_seqs=2)
    for name, priority in (("a", 5), ("b", 9)):
        run.add(request(name, priority=priority))
    run.step()
    run.add(request("c", priority=1))
    assert planned(run) == {"c": 5, "a": 1}
    assert preemptions(run) == {"priority": 1}
    assert list(run.finish().finish_reasons) == ["a", "c", "b"]


def test_an_equal_priority_takes_nothing() -> None:
    run = by_priority(max_num_seqs=1)
    run.add(request("a", arrival_s=9.0))
    run.step()
    run.add(request("b", arrival_s=1.0))
    run.finish()
    assert preemptions(run) == {}


def test_without_the_policy_a_priority_takes_nothing() -> None:
    run = SchedulerRun(make_config(max_num_seqs=1))
    run.add(request("a", priority=9))
    run.step()
    run.add(request("b", priority=0))
    run.finish()
    assert preemptions(run) == {}


def test_a_better_priority_takes_as_many_blocks_as_it_needs() -> None:
    run = by_priority(num_blocks=16)
    for name in "abc":
        run.add(request(name, 17, max_tokens=3, priority=5))  # 5 blocks each
    run.step()
    run.add(request("d", 21, max_tokens=3, priority=0))  # 6 blocks; 1 is free
    assert planned(run) == {"d": 21, "a": 1, "b": 1}
    assert preemptions(run) == {"priority": 1}


def test_no_sequence_is_preempted_in_vain() -> None:
    """The blocks that a better priority could take are too few for it, since others have the rest."""
    run = by_priority(num_blocks=16)
    run.add(request("a", 41, max_tokens=3, priority=0))  # 11 blocks
    run.add(request("b", 9, max_tokens=3, priority=9))  # 3 blocks
    run.step()
    run.add(request("c", 25, max_tokens=3, priority=1))  # 7 blocks; 5 are free without b
    assert planned(run) == {"a": 1, "b": 1}
    assert preemptions(run) == {}
    run.finish()


def test_a_priority_takes_nothing_of_another_tenant() -> None:
    run = by_priority(max_num_seqs=2)
    run.add(request("a", priority=9, tenant="A"))
    run.add(request("b", priority=5, tenant="B"))
    run.step()
    run.add(request("c", priority=0, tenant="B"))
    assert planned(run) == {"c": 5, "a": 1}


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    rows=st.lists(
        st.tuples(st.integers(1, 24), st.integers(1, 12), st.integers(0, 4), st.integers(0, 3)),
        min_size=1,
        max_size=16,
    ),
    max_num_seqs=st.integers(1, 4),
)
def test_all_end_and_preemptions_for_priority_are_bounded(
    rows: list[tuple[int, int, int, int]], max_num_seqs: int
) -> None:
    """Requests that come over time. Each sequence takes room whenever it runs anew, and never from an equal: without
    lack of memory it gives it up to a better one only, so no two can take it from each other in turn."""
    run = by_priority(num_blocks=400, max_num_seqs=max_num_seqs, max_num_batched_tokens=32)
    requests = []
    for number, (length, max_tokens, priority, num_steps) in enumerate(rows):
        requests.append(request(f"r{number}", length, max_tokens=max_tokens, priority=priority))
        run.add(requests[-1])
        for _ in range(num_steps):
            run.step()
    transcript = run.finish()
    assert transcript.ids == {each.id: expected_ids(each) for each in requests}
    num_better = sum(each.priority < other.priority for each in requests for other in requests)
    assert preemptions(run).get("priority", 0) <= num_better
