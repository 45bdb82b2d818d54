"""A request's tokens are the same with a tier, whatever the tier loses and however late its reads end."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import SchedulingPolicy
from engine.protocol import AbortReason, EngineRequest
from engine.scheduling.kv.moves import BlockLoad
from tests.engine.scheduling.test_schedules import blocks_of_pool, schedules, workloads
from tests.helpers.engines import SchedulerRun, expected_ids, half_right_draft, make_config, make_engine
from tests.helpers.hiding import HidingRunner
from tests.helpers.local_client import LocalClient
from tests.helpers.memory_tier import MemoryTier

pytestmark = pytest.mark.fast


def without_states(schedule: dict[str, Any]) -> dict[str, Any]:
    return {**schedule, "num_states": 0}


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    requests=workloads(),
    schedule=schedules.map(without_states),
    policy=st.sampled_from(SchedulingPolicy),
    spare=st.integers(0, 3),
    writes_through=st.booleans(),
)
def test_tokens_do_not_depend_on_a_tier(
    requests: list[EngineRequest], schedule: dict[str, Any], policy: SchedulingPolicy, spare: int, writes_through: bool
) -> None:
    tier = MemoryTier()
    engine, runner = make_engine(
        num_blocks=blocks_of_pool(schedule, spare),
        max_model_len=50,
        policy=policy,
        tier=tier,
        writes_through=writes_through,
        **schedule,
    )
    engine._runner = HidingRunner(runner)
    expected = {request.id: expected_ids(request) for request in requests}
    for _ in range(2):  # again, when the tier has what the pool has evicted
        outputs = LocalClient(engine).generate(requests)
        assert {id: output.new_ids for id, output in outputs.items()} == expected


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    requests=workloads(),
    schedule=schedules.map(without_states),
    spare=st.integers(0, 3),
    drafts=st.booleans(),
    read_steps=st.integers(0, 4),
    max_read_blocks=st.integers(1, 12),
    loses=st.sampled_from([0, 0, 3, 5]),
    drops=st.sampled_from([0, 0, 4]),
    prefill_s=st.sampled_from([math.inf, 1.0]),
    data=st.data(),
)
def test_tokens_do_not_depend_on_what_a_tier_loses_or_when_it_answers(
    requests: list[EngineRequest],
    schedule: dict[str, Any],
    spare: int,
    drafts: bool,
    read_steps: int,
    max_read_blocks: int,
    loses: int,
    drops: int,
    prefill_s: float,
    data: st.DataObject,
) -> None:
    """Requests come one after another, so that their prefixes are evicted meanwhile; some are aborted, some fail, some
    give up waiting, and some have no memory to load what was read."""
    tier = MemoryTier(
        is_late=True,
        is_lost=lambda key: loses > 0 and sum(key) % loses == 0,
        takes=lambda key: drops == 0 or sum(key) % drops > 0,
    )
    config = make_config(num_blocks=blocks_of_pool(schedule, spare), **schedule)
    run = SchedulerRun(
        config,
        half_right_draft if drafts else None,
        tier=tier,
        max_read_blocks=max_read_blocks,
        read_steps=read_steps,
        prefill_s=prefill_s,
    )
    load = run.runner.load

    def load_or_fail(loads: list[BlockLoad]) -> None:
        if data.draw(st.sampled_from([False, False, True])):
            raise MemoryError
        load(loads)

    run.runner.load = load_or_fail  # type: ignore[method-assign]
    disturbed = set()
    for round_ in range(2):
        for request in requests:
            run.now_s += 1.2
            run.add(named(request, f"{request.id} {round_}"))
            for _ in range(data.draw(st.integers(0, 3))):
                run.step()
            if data.draw(st.integers(0, 9)) == 0:
                disturbed.add(f"{request.id} {round_}")
                run.scheduler.abort(f"{request.id} {round_}", AbortReason.CLIENT_GONE)
            elif data.draw(st.integers(0, 19)) == 0:
                disturbed.add(f"{request.id} {round_}")
                run.runner.fail_ids.add(f"{request.id} {round_}")
            elif data.draw(st.integers(0, 19)) == 0:
                tier.finish(error=OSError("made to fail"))
        run.finish()
    for request in requests:
        for round_ in range(2):
            ids = run.transcript.ids.get(f"{request.id} {round_}", [])
            expected = expected_ids(request)
            assert ids == (expected[: len(ids)] if f"{request.id} {round_}" in disturbed else expected)
    assert tier.reads == []


def named(request: EngineRequest, name: str) -> EngineRequest:
    return msgspec.structs.replace(request, id=name)
