"""A fleet in virtual time: exact times of small loads, repetition, refusals and the sums of its figures."""

import dataclasses
from pathlib import Path

import pytest

from engine.errors import OptionError
from engine.scheduling.kv.groups import KVGroup
from engine.scheduling.steps.work import ModelWork, ModuleSizes
from engine.simulation.costs import MeasuredTimes
from engine.simulation.fleet import Fleet, RequestFate, make_replica
from engine.simulation.hardware import SimulatedModel
from engine.simulation.policies import POLICIES, make_policy
from engine.simulation.results import Percentiles, SimulationResult, simulation_result
from engine.simulation.trace import TraceRequest, draw_trace

pytestmark = pytest.mark.fast

WORK = ModelWork(ModuleSizes(1, 1), ModuleSizes(1, 1), ModuleSizes(1, 1), (), (), (), 1, 0)
MODEL = SimulatedModel(
    model="m",
    hardware="a test's",
    source="made up",
    work=WORK,
    kv_groups=(KVGroup(16),),
    num_blocks=256,
    num_states=0,
    max_model_len=1024,
    is_gpu=False,
    weight_bytes=1,
    kv_bytes=1,
    measured=MeasuredTimes(((1, 0.25), (2, 0.5)), ((1, 0.0),), 0.0, 0.0),  # 0.25 s a row
)


def play(
    trace: list[TraceRequest],
    *,
    replicas: int = 1,
    model: SimulatedModel = MODEL,
    policy: str = "round_robin",
    **limits: int,
) -> tuple[Fleet, list[RequestFate]]:
    options = {"max_num_seqs": 8, "max_num_batched_tokens": 64, **limits}
    fleet = Fleet(
        [
            make_replica(
                model,
                **options,
                long_prefill_token_threshold=0,
                enable_prefix_caching=True,
                batch_step_ms=50,
            )
            for _ in range(replicas)
        ],
        make_policy(policy, 0),
        model.kv_tokens,
    )
    fates = fleet.run(trace)
    for replica in fleet.replicas:
        replica.engine.scheduler.check()
        assert not replica.engine.scheduler.has_work
        assert (replica.num_open, replica.queued_tokens) == (0, 0)
    return fleet, fates


def result_of(trace: list[TraceRequest], price: float | None = None, **options: int) -> SimulationResult:
    return simulation_result(*play(trace, **options), price)


def test_a_request_alone_takes_its_prompt_and_a_step_for_each_further_token() -> None:
    (fate,) = play([TraceRequest(3.0, 4, 3)])[1]
    assert (fate.first_token_s, fate.ended_s) == (4.0, 4.5)
    assert (fate.ttft_s, fate.token_s) == (1.0, 0.25)


def test_a_request_that_comes_during_a_step_waits_for_its_end() -> None:
    first, second = play([TraceRequest(0.0, 4, 1), TraceRequest(0.5, 4, 1)])[1]
    assert (first.ended_s, second.ended_s) == (1.0, 2.0)


def test_requests_of_one_moment_are_in_one_step() -> None:
    fates = play([TraceRequest(0.0, 4, 1), TraceRequest(0.0, 2, 1)])[1]
    assert [fate.ended_s for fate in fates] == [1.5, 1.5]


def test_replicas_in_turn_take_requests_side_by_side() -> None:
    fates = play([TraceRequest(0.0, 4, 1), TraceRequest(0.0, 4, 1)], replicas=2)[1]
    assert [(fate.replica, fate.ended_s) for fate in fates] == [(0, 1.0), (1, 1.0)]


def test_a_shared_prefix_is_computed_once() -> None:
    shared = [TraceRequest(0.0, 40, 1, (5,), 32), TraceRequest(100.0, 40, 1, (5,), 32)]
    second = play(shared)[1][1]
    assert (second.num_cached, second.ttft_s) == (32, 2.0)
    assert result_of(shared).prefix_hits == 32 / 80


def test_a_request_that_never_fits_is_refused_and_counted() -> None:
    result = result_of([TraceRequest(0.0, 1020, 5), TraceRequest(0.0, 4, 1)])
    assert (result.requests, result.answered, result.refused) == (2, 1, 1)
    assert result.first_refusal is not None
    assert "1,024" in result.first_refusal


def test_a_small_cache_preempts_and_all_requests_are_answered() -> None:
    model = dataclasses.replace(MODEL, num_blocks=6, max_model_len=96)
    result = result_of([TraceRequest(0.0, 16, 40) for _ in range(4)], model=model)  # type: ignore[arg-type]
    assert result.preemptions > 0
    assert result.recomputed_tokens > 0
    assert result.answered == 4


def test_the_figures_are_sums_over_requests_and_replicas() -> None:
    load = draw_trace(
        rate=0.2, num_requests=60, input_len="4:40", output_len="1:20", prefix_len=32, num_prefixes=4, seed=3
    )
    fleet, fates = play(load, replicas=3)
    result = simulation_result(fleet, fates, 36.0)
    assert result.output_tokens == sum(each.num_output for each in load)
    assert sum(each.engine.tally.output_tokens for each in fleet.replicas) == result.output_tokens
    assert sum(each.requests for each in result.replicas) == 60
    computed = sum(each.engine.tally.prompt_tokens for each in fleet.replicas)
    assert computed == result.prompt_tokens + result.recomputed_tokens - sum(each.num_cached for each in fates)
    assert result.cost == pytest.approx(3 * 36.0 * result.duration_s / 3600)
    assert result == simulation_result(*play(load, replicas=3), 36.0)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_answers_all_and_repeats(policy: str) -> None:
    load = draw_trace(
        rate=0.5, num_requests=40, input_len="4:40", output_len="1:20", prefix_len=32, num_prefixes=4, seed=3
    )
    fates = play(load, replicas=3, policy=policy)[1]
    assert all(fate.ended_s is not None for fate in fates)
    assert {fate.replica for fate in fates} == {0, 1, 2}
    assert fates == play(load, replicas=3, policy=policy)[1]


def test_a_policy_cannot_change_the_fleet(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text("def choose(request, replicas):\n    replicas.clear()\n    return 0\n")
    with pytest.raises(OptionError, match="failed: AttributeError"):
        play([TraceRequest(0.0, 4, 1)], policy=str(path))


def test_percentiles_are_values_of_the_nearest_rank() -> None:
    assert Percentiles.of(range(1, 101)) == Percentiles(50.5, 50, 95, 99)
    assert Percentiles.of([7.0]) == Percentiles(7.0, 7.0, 7.0, 7.0)
    assert Percentiles.of([]) is None
