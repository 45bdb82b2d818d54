"""Properties of plans and of the simulator behind them, over drawn loads."""

import dataclasses
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import EngineConfig
from engine.simulation.costs import MeasuredTimes
from engine.simulation.hardware import SimulatedModel
from engine.simulation.planning.plan import Plan, make_plan
from engine.simulation.planning.search import LoadKind, LoadSearch, Requests, Servers
from engine.simulation.planning.slo import SLO, parse_slo
from engine.simulation.policies import POLICIES
from engine.simulation.trace import TraceRequest
from tests.engine.simulation.planning.test_search import EVEN
from tests.engine.simulation.test_fleet import play
from tests.engine.simulation.test_runs import FULL, loads, model_of

pytestmark = pytest.mark.fast

# A step of few rows takes almost as long as one of one row, as on real machines.
SHARED = dataclasses.replace(EVEN, measured=MeasuredTimes(((1, 0.01), (8, 0.015), (64, 0.08)), ((1, 0.001),), 0.0, 0.0))
MODELS = st.sampled_from([EVEN, SHARED])
REQUESTS = st.builds(
    Requests,
    input=st.sampled_from(["8", "4:30", "lognormal:8:1:60"]),
    output=st.sampled_from(["1", "4", "2:9"]),
    num_requests=st.just(12),
    seed=st.integers(0, 9),
)
LIMITS = {name: st.integers(1, 40).map(lambda number: number * 0.025) for name in ("ttft", "tpot", "request")}


def server(model: SimulatedModel) -> Servers:
    return Servers(model, EngineConfig(max_num_seqs=8, max_num_batched_tokens=64), 1)


def largest(model: SimulatedModel, requests: Requests, kind: LoadKind, slo: SLO) -> float:
    """Return the largest load; 0 for none."""
    trial = LoadSearch(server(model), requests, kind, slo).largest().trial
    return 0 if trial is None else trial.amount


def show(limits_s: dict[str, float]) -> SLO:
    return parse_slo(",".join(f"{name}={limit_s}s" for name, limit_s in limits_s.items()))


@settings(max_examples=8, deadline=None)
@given(
    model=MODELS,
    requests=REQUESTS,
    kind=st.sampled_from(LoadKind),
    limits_s=st.fixed_dictionaries({}, optional=LIMITS).filter(bool),
    factor=st.sampled_from([1.01, 1.3, 3.0]),
)
def test_longer_limits_never_have_a_smaller_largest_load(
    model: SimulatedModel, requests: Requests, kind: LoadKind, limits_s: dict[str, float], factor: float
) -> None:
    longer = {name: limit_s * factor for name, limit_s in limits_s.items()}
    assert largest(model, requests, kind, show(longer)) >= largest(model, requests, kind, show(limits_s))


@settings(max_examples=8, deadline=None)
@given(model=MODELS, requests=REQUESTS, kind=st.sampled_from(LoadKind), amount=st.integers(1, 12))
def test_the_same_seed_has_the_same_plan(
    model: SimulatedModel, requests: Requests, kind: LoadKind, amount: int
) -> None:
    def plan() -> Plan:
        return make_plan(server(model), requests, kind, amount, parse_slo("request=500ms"), has_changes=False)

    assert plan() == plan()


@settings(max_examples=50, deadline=None)
@given(
    load=loads(),
    spare_blocks=st.sampled_from([0, 3, 400]),
    max_num_seqs=st.sampled_from([1, 3, 8]),
    replicas=st.integers(1, 3),
    policy=st.sampled_from(list(POLICIES)),
    too_long=st.lists(st.integers(1, 200), max_size=2),
)
def test_every_request_and_token_of_a_trace_has_one_fate(
    load: list[TraceRequest], spare_blocks: int, max_num_seqs: int, replicas: int, policy: str, too_long: list[int]
) -> None:
    """too_long: tokens of prompts of which some do not fit."""
    load = load + [TraceRequest(load[-1].arrival_s + 1, each, 150) for each in too_long]
    fleet, fates = play(
        load, replicas=replicas, model=model_of(FULL, spare_blocks), policy=policy, max_num_seqs=max_num_seqs
    )
    assert Counter(map(id, load)) == Counter(id(fate.request) for fate in fates)
    answered = [fate for fate in fates if fate.ended_s is not None]
    refused = [fate for fate in fates if fate.refusal is not None]
    assert len(answered) + len(refused) == len(load)
    tallies = [replica.engine.tally for replica in fleet.replicas]
    assert sum(each.output_tokens for each in tallies) == sum(fate.request.num_output for fate in answered)
    computed = sum(each.prompt_tokens for each in tallies)
    recomputed = sum(each.recomputed_tokens for each in tallies)
    assert computed - recomputed == sum(fate.request.num_prompt - fate.num_cached for fate in answered)
