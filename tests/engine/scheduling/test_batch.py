"""The class of batches: it runs while no client has work, and what it does is counted apart."""

from typing import Any

import pytest

from engine.protocol import EngineRequest, ServiceClass
from tests.helpers.engines import SchedulerRun, make_config, make_prompt, make_request

pytestmark = pytest.mark.fast


def line(name: str, length: int = 5, **fields: Any) -> EngineRequest:
    return _request(name, length, ServiceClass.BATCH, **fields)


def client(
    name: str, length: int = 5, service_class: ServiceClass = ServiceClass.INTERACTIVE, **fields: Any
) -> EngineRequest:
    return _request(name, length, service_class, **fields)


def _request(name: str, length: int, service_class: ServiceClass, **fields: Any) -> EngineRequest:
    prompt = make_prompt(length, seed=sum(name.encode()))
    return make_request(name, prompt, ignore_eos=True, service_class=service_class, **fields)


def planned(run: SchedulerRun) -> dict[str, int]:
    """The tokens of each sequence in the next step, which is made."""
    run.step()
    return {name: num_new for name, num_new, _ in run.plans[-1]}


@pytest.mark.parametrize("service_class", [ServiceClass.URGENT, ServiceClass.INTERACTIVE, ServiceClass.BACKGROUND])
def test_a_batch_stops_the_moment_a_client_waits(service_class: ServiceClass) -> None:
    run = SchedulerRun(make_config())
    run.add(line("a"))
    run.add(line("b", 9))
    assert planned(run) == {"a": 5, "b": 9}
    run.add(client("c", service_class=service_class))
    assert planned(run) == {"c": 5}


def test_what_a_batch_does_is_counted_apart() -> None:
    run = SchedulerRun(make_config(max_num_seqs=2))
    for name in "abc":
        run.add(line(name, 6))
    run.step()
    run.step()
    first, second = run.stats
    assert (first.batch_prefill_tokens, first.batch_decode_tokens) == (12, 0)
    assert (second.batch_prefill_tokens, second.batch_decode_tokens) == (0, 2)
    assert (second.running_batch, second.waiting_batch) == (2, 1)
    assert (second.running, second.waiting, second.prefix_queries) == (0, 0, 0)
    assert (second.prefill_tokens, second.decode_tokens) == (0, 0)


def test_what_preemption_costs_a_batch_is_told_apart() -> None:
    run = SchedulerRun(make_config(block_size=4))
    run.add(line("a", 6))
    run.step()
    run.step()  # 7 tokens are computed, of them one full block of 4
    run.add(client("c", max_tokens=1))
    run.step()
    assert (run.stats[-1].batch_preemptions, run.stats[-1].preemptions) == (1, 0)
    run.step()
    stats = run.stats[-1]
    assert (stats.batch_recomputed_tokens, stats.batch_prefill_tokens, stats.batch_decode_tokens) == (3, 3, 1)
    assert stats.recomputed_tokens == 0
