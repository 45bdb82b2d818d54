"""The property of runs of decode steps: a fleet that plays them at once has exactly the results of single steps."""

import dataclasses
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.scheduling.kv.groups import KVGroup, peak_blocks
from engine.scheduling.plan import PlanItem, StepPlan
from engine.scheduling.sequence import Sequence as EngineSequence
from engine.scheduling.steps.decode_run import DecodeRuns
from engine.scheduling.steps.work import AttentionSizes, ExpertSizes, ModelWork, ModuleSizes
from engine.simulation.costs import MeasuredTimes
from engine.simulation.fleet import Fleet, RequestFate, make_replica
from engine.simulation.hardware import SimulatedModel
from engine.simulation.policies import POLICIES, make_policy
from engine.simulation.replica import ReplicaTally
from engine.simulation.results import SimulationResult, simulation_result
from engine.simulation.trace import TraceRequest
from tests.engine.simulation.test_fleet import MODEL
from tests.helpers.engines import make_request

pytestmark = pytest.mark.fast

EXPERTS = ExpertSizes(8, 2, 1000)
WORK = ModelWork(
    every=ModuleSizes(70_000, 90_000, (EXPERTS,)), late=ModuleSizes(3000, 2000), head=ModuleSizes(5000, 7000),
    full=(AttentionSizes(0, False, 64, 256),),
    windows=(AttentionSizes(6, False, 32, 128), AttentionSizes(8, True, 16, 64)),
    late_attention=(AttentionSizes(0, False, 8, 32), AttentionSizes(6, False, 8, 32)),
    written_per_row=64, state_bytes=0,
)  # fmt: skip
TIMES = MeasuredTimes(((1, 0.0103), (8, 0.0211), (64, 0.131)), ((1, 0.0007), (8, 0.0033)), 1.3e-7, 1.7e-9)
FULL = (KVGroup(4),)
GROUPS = [FULL, (KVGroup(1),), (KVGroup(4), KVGroup(4, 6)), (KVGroup(4), KVGroup(2, 8, is_chunked=True))]


@st.composite
def loads(draw: st.DrawFn) -> list[TraceRequest]:
    """Requests with shared prefixes; block 0 has the tokens that are generated, so that answers are prefixes too."""
    requests, now_s = [], 0.0
    for _ in range(draw(st.integers(1, 14))):
        now_s += draw(st.sampled_from([0.0, 0.013, 0.11, 0.9, 4.0]))
        block_ids = tuple(draw(st.lists(st.sampled_from([0, 0, 1, 2]), max_size=4)))
        num_prompt = draw(st.integers(1, 4 * len(block_ids) + 9))
        num_output = draw(st.sampled_from([1, 2, 3, 9, 40, 150]))
        requests.append(TraceRequest(now_s, num_prompt, num_output, block_ids, 4))
    return requests


def results(
    load: Sequence[TraceRequest], model: SimulatedModel, *, plays_runs: bool, replicas: int, policy: str, **limits: int
) -> tuple[SimulationResult, list[RequestFate], list[ReplicaTally]]:
    options = {"max_num_seqs": 8, "max_num_batched_tokens": None, "long_prefill_token_threshold": 0, **limits}
    made = [
        make_replica(model, enable_prefix_caching=True, batch_step_ms=50, plays_runs=plays_runs, **options)  # type: ignore[arg-type]
        for _ in range(replicas)
    ]
    fleet = Fleet(made, make_policy(policy, 0), model.kv_tokens)
    fates = fleet.run(load)
    for replica in made:
        replica.scheduler.check()
    return simulation_result(fleet, fates, 1.0), fates, [each.tally for each in made]


def model_of(groups: tuple[KVGroup, ...], spare_blocks: int) -> SimulatedModel:
    num_blocks = peak_blocks(groups, 180) + spare_blocks
    return dataclasses.replace(
        MODEL, work=WORK, measured=TIMES, kv_groups=groups, num_blocks=num_blocks, max_model_len=180
    )


@settings(max_examples=150, deadline=None)
@given(
    load=loads(),
    groups=st.sampled_from(GROUPS),
    spare_blocks=st.sampled_from([0, 3, 20, 400]),
    max_num_seqs=st.sampled_from([1, 2, 3, 8]),
    max_num_batched_tokens=st.sampled_from([None, None, 2, 3, 8, 64]),
    replicas=st.integers(1, 3),
    policy=st.sampled_from(list(POLICIES)),
)
def test_runs_have_the_results_of_single_steps(
    load: list[TraceRequest],
    groups: tuple[KVGroup, ...],
    spare_blocks: int,
    replicas: int,
    policy: str,
    max_num_seqs: int,
    max_num_batched_tokens: int | None,
) -> None:
    model, limits = model_of(groups, spare_blocks), {"max_num_seqs": max_num_seqs}
    if max_num_batched_tokens is not None:
        limits["max_num_batched_tokens"] = max_num_batched_tokens
    in_runs, single = (
        results(load, model, plays_runs=plays_runs, replicas=replicas, policy=policy, **limits)
        for plays_runs in (True, False)
    )
    assert in_runs == single  # times to the last bit


@pytest.mark.parametrize("groups", GROUPS)
def test_a_long_answer_is_played_in_few_runs(groups: tuple[KVGroup, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    played = []
    play = DecodeRuns.play
    monkeypatch.setattr(DecodeRuns, "play", lambda *args: (played.append(args[2]), play(*args))[1])
    load = [TraceRequest(0.0, 5, 150), TraceRequest(0.7, 5, 150)]
    result, _, _ = results(load, model_of(groups, 400), plays_runs=True, replicas=1, policy="round_robin")
    assert sum(played) > 0.9 * result.steps
    assert len(played) < 10


def test_a_run_continues_while_a_request_waits_for_a_slot_or_for_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    played = []
    play = DecodeRuns.play
    monkeypatch.setattr(DecodeRuns, "play", lambda *args: (played.append(args[2]), play(*args))[1])
    load = [TraceRequest(0.0, 9, 150), TraceRequest(0.05, 120, 3)]
    for model, num_slots in ((model_of(FULL, 400), 1), (model_of(FULL, 0), 8)):
        played.clear()
        results(load, model, plays_runs=True, replicas=1, policy="round_robin", max_num_seqs=num_slots)
        assert sum(played) > 100


def test_the_demands_of_decode_steps_are_those_of_their_plans() -> None:
    ends = [3, 7, 8, 30]
    for step, demand in zip(range(12), WORK.decode_demands(ends), strict=False):
        assert demand == WORK.demand(StepPlan([_decoding(end + step) for end in ends]))


def _decoding(end: int) -> PlanItem:
    request = make_request("r", [1], max_tokens=99)
    return PlanItem(EngineSequence(request=request, seed=0, tokens=[1], num_prompt=1), end - 1, 1, 0, True)
