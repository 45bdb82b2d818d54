"""The master property: a request's tokens are the same under every schedule."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import SchedulingPolicy
from engine.protocol import EngineRequest, ServiceClass
from engine.scheduling.kv.groups import peak_blocks
from tests.helpers.engines import (
    SchedulerRun,
    expected_ids,
    half_right_draft,
    make_config,
    make_engine,
    make_groups,
    make_prompt,
    make_request,
)
from tests.helpers.grammars import GRAMMARS, expected_output
from tests.helpers.hiding import HidingRunner
from tests.helpers.local_client import LocalClient

pytestmark = pytest.mark.fast

SERVED = [ServiceClass.INTERACTIVE, ServiceClass.BACKGROUND, ServiceClass.BATCH]
PREFIXES = [make_prompt(24, seed=seed) for seed in range(2)]


@st.composite
def workloads(draw: st.DrawFn, grammars: tuple[str | None, ...] = (None,)) -> list[EngineRequest]:
    """Up to a dozen requests of at most 50 tokens, many with a shared prefix."""
    requests = []
    for index in range(draw(st.integers(1, 12))):
        prefix = draw(st.sampled_from(PREFIXES))[: draw(st.integers(0, 24))]
        tail = draw(st.lists(st.integers(1, 9), min_size=1, max_size=6))
        requests.append(
            make_request(
                f"r{index}",
                prefix + tail,
                max_tokens=draw(st.integers(1, 20)),
                seed=draw(st.integers(0, 3)),
                priority=draw(st.integers(0, 3)),
                arrival_s=float(draw(st.integers(0, 3))),
                ignore_eos=draw(st.booleans()),
                grammar=draw(st.sampled_from(grammars)),
                tenant=draw(st.sampled_from(["", "a", "b"])),
                tenant_weight=draw(st.sampled_from([1.0, 3.0])),
                service_class=draw(st.sampled_from([ServiceClass.INTERACTIVE, *SERVED])),
            )
        )
    return requests


schedules = st.fixed_dictionaries(
    {
        "block_size": st.sampled_from([1, 3, 4, 16]),
        "max_num_seqs": st.integers(1, 12),
        "max_num_batched_tokens": st.integers(1, 64),
        "long_prefill_token_threshold": st.sampled_from([0, 0, 1, 7]),
        "enable_prefix_caching": st.booleans(),
        "windows": st.sampled_from([(None,), (None,), (5,), (None, 3), (None, 9, 1, 9), (2, 17), (-7,), (None, -5, 9)]),
        "ratios": st.sampled_from([(1,), (1,), (1,), (2, 1), (1, 3), (4, 2, 1)]),
        "num_states": st.sampled_from([0, 0, 1, 2, 4, 8, 30]),
    }
)


def blocks_of_pool(schedule: dict[str, Any], spare: int) -> int:
    """Enough for one of the requests alone, and `spare` more."""
    groups = make_groups(schedule["block_size"], schedule["windows"], 0, schedule["ratios"])
    return peak_blocks(groups, 50) + spare


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    requests=workloads(),
    schedule=schedules,
    policy=st.sampled_from(SchedulingPolicy),
    spare=st.integers(0, 12),
    feeds=st.booleans(),
)
def test_tokens_do_not_depend_on_the_schedule(
    requests: list[EngineRequest], schedule: dict[str, Any], policy: SchedulingPolicy, spare: int, feeds: bool
) -> None:
    """Also where sequences advance while a step is pending, and where steps are planned ahead."""
    num_blocks = blocks_of_pool(schedule, spare)
    engine, runner = make_engine(num_blocks=num_blocks, max_model_len=50, policy=policy, feeds=feeds, **schedule)
    engine._runner = HidingRunner(runner)
    outputs = LocalClient(engine).generate(requests)
    assert {id: output.new_ids for id, output in outputs.items()} == {r.id: expected_ids(r) for r in requests}


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    requests=workloads(),
    schedule=schedules,
    policy=st.sampled_from(SchedulingPolicy),
    spare=st.integers(0, 12),
)
def test_tokens_do_not_depend_on_drafts(
    requests: list[EngineRequest], schedule: dict[str, Any], policy: SchedulingPolicy, spare: int
) -> None:
    config = make_config(num_blocks=blocks_of_pool(schedule, spare), scheduling_policy=policy, **schedule)
    transcript = SchedulerRun(config, half_right_draft).run(requests)
    assert transcript.ids == {r.id: expected_ids(r) for r in requests}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    requests=workloads((None, None, *GRAMMARS)),
    schedule=schedules,
    policy=st.sampled_from(SchedulingPolicy),
    drafts=st.booleans(),
    spare=st.integers(0, 12),
)
def test_tokens_that_match_grammars_do_not_depend_on_the_schedule(
    requests: list[EngineRequest], schedule: dict[str, Any], policy: SchedulingPolicy, drafts: bool, spare: int
) -> None:
    config = make_config(num_blocks=blocks_of_pool(schedule, spare), scheduling_policy=policy, **schedule)
    transcript = SchedulerRun(config, half_right_draft if drafts else None).run(requests)
    assert transcript.ids == {r.id: expected_ids(r) for r in requests}
    reasons = {r.id: expected_output(r)[1] for r in requests if r.grammar is not None}
    assert {id: transcript.finish_reasons[id] for id in reasons} == reasons
