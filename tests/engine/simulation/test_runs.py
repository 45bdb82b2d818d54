"""The property of runs of decode steps: a fleet that plays them at once has exactly the results of single steps."""

import dataclasses
from collections import deque
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import SchedulingPolicy
from engine.protocol import EngineRequest, FinishReason, ServiceClass
from engine.scheduling.config import SchedulerConfig
from engine.scheduling.kv.groups import KVGroup, peak_blocks
from engine.scheduling.plan import PlanItem, StepPlan
from engine.scheduling.sequence import Sequence as EngineSequence
from engine.scheduling.steps.work import AttentionSizes, ExpertSizes, ModelWork, ModuleSizes
from engine.simulation.costs import MeasuredTimes
from engine.simulation.fleet import Fleet, RequestFate, make_replica
from engine.simulation.hardware import SimulatedModel
from engine.simulation.policies import POLICIES, make_policy
from engine.simulation.replica import Replica, ReplicaTally
from engine.simulation.results import SimulationResult, simulation_result
from engine.simulation.run_scheduler import RunScheduler
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
STATES = (KVGroup(4), KVGroup(4, is_state=True))  # has no runs


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
        MODEL,
        work=WORK,
        measured=TIMES,
        kv_groups=groups,
        num_blocks=num_blocks,
        num_states=40 * (groups == STATES),
        max_model_len=180,
    )


@settings(max_examples=150, deadline=None)
@given(
    load=loads(),
    groups=st.sampled_from([*GROUPS, STATES]),
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


@st.composite
def mixed_requests(draw: st.DrawFn) -> list[EngineRequest]:
    """Requests of several tenants, weights, classes and priorities, in order of arrival, with shared prefixes."""
    requests, now_s = [], 0.0
    classes = [ServiceClass.INTERACTIVE] * 3 + [ServiceClass.URGENT, ServiceClass.BACKGROUND, ServiceClass.BATCH]
    has_tenants, has_classes = draw(st.booleans()), draw(st.booleans())
    for index in range(draw(st.integers(1, 10))):
        now_s += draw(st.sampled_from([0.0, 0.013, 0.11, 0.9]))
        name = draw(st.sampled_from(["", "", "b"])) if has_tenants else ""
        requests.append(
            make_request(
                str(index),
                [0] * draw(st.integers(1, 12)) + [index] * draw(st.sampled_from([0, 1, 30])),
                max_tokens=draw(st.sampled_from([1, 3, 9, 40, 130])),
                ignore_eos=True,
                arrival_s=now_s,
                tenant=name,
                tenant_weight=draw(st.sampled_from([1.0, 1.0, 3.0])) if has_tenants else 1.0,
                priority=draw(st.sampled_from([0, 0, 1])),
                service_class=draw(st.sampled_from(classes)) if has_classes else ServiceClass.INTERACTIVE,
            )
        )
    return requests


def ends_and_state(
    requests: Sequence[EngineRequest],
    model: SimulatedModel,
    max_num_seqs: int,
    policy: SchedulingPolicy,
    is_in_runs: bool,
) -> tuple[list[tuple[float, str, FinishReason]], ReplicaTally, dict[bytes, int]]:
    """Return the end of each request, the sums over the steps, and the block of each cached prefix."""
    budget, times, work = model.budget(None, 0.05), model.times(), model.work
    config = SchedulerConfig(
        num_blocks=model.num_blocks,
        num_states=model.num_states,
        kv_groups=model.kv_groups,
        max_model_len=model.max_model_len,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=budget.max_tokens,
        scheduling_policy=policy,
    )
    replica = Replica(
        config,
        budget,
        lambda plan: times.step_s(work.demand(plan)),
        decode_s=(lambda ends: map(times.step_s, work.decode_demands(ends))) if is_in_runs else None,
    )
    ends, pending = [], deque(requests)
    while pending or replica.ends_s is not None:
        if replica.ends_s is not None and (not pending or replica.ends_s <= pending[0].arrival_s):
            now_s = replica.ends_s
            ends += [(now_s, each.id, each.finish_reason) for each in replica.end_step() if each.finish_reason]
            replica.scheduler.check()
            replica.begin_step(now_s)
            continue
        now_s = pending[0].arrival_s
        while pending and pending[0].arrival_s == now_s:
            replica.add(pending.popleft())
        if replica.ends_s is None:
            replica.begin_step(now_s)
    assert len(ends) == len(requests)
    return ends, replica.tally, replica.scheduler._kv.pool._blocks_by_digest


@settings(max_examples=100, deadline=None)
@given(
    requests=mixed_requests(),
    groups=st.sampled_from([*GROUPS, STATES]),
    spare_blocks=st.sampled_from([0, 3, 20, 400]),
    max_num_seqs=st.sampled_from([1, 2, 3, 8]),
    policy=st.sampled_from(SchedulingPolicy),
)
def test_runs_keep_the_order_of_tenants_classes_and_priorities(
    requests: list[EngineRequest],
    groups: tuple[KVGroup, ...],
    spare_blocks: int,
    max_num_seqs: int,
    policy: SchedulingPolicy,
) -> None:
    model = model_of(groups, spare_blocks)
    in_runs, single = (ends_and_state(requests, model, max_num_seqs, policy, each) for each in (True, False))
    assert in_runs == single


@pytest.mark.parametrize("groups", GROUPS)
def test_a_long_answer_is_played_in_few_runs(groups: tuple[KVGroup, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    played = []
    play = RunScheduler.play_run
    monkeypatch.setattr(RunScheduler, "play_run", lambda *args: (played.append(args[2]), play(*args))[1])
    load = [TraceRequest(0.0, 5, 150), TraceRequest(0.7, 5, 150)]
    result, _, _ = results(load, model_of(groups, 400), plays_runs=True, replicas=1, policy="round_robin")
    assert sum(played) > 0.9 * result.steps
    assert len(played) < 10


def test_a_run_continues_while_a_request_waits_for_a_slot_or_for_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    played = []
    play = RunScheduler.play_run
    monkeypatch.setattr(RunScheduler, "play_run", lambda *args: (played.append(args[2]), play(*args))[1])
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
