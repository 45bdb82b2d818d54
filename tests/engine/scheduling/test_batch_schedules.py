"""Batches beside clients, under random arrivals: same tokens, no step in common, and no client that gets any later."""

import random
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import SchedulingPolicy
from engine.protocol import EngineRequest, ServiceClass
from engine.scheduling.steps.budget import StepBudget
from tests.helpers.engines import SchedulerRun, expected_ids, half_right_draft, make_config, make_prompt, make_request

pytestmark = pytest.mark.fast

CLIENTS = [ServiceClass.URGENT, ServiceClass.INTERACTIVE, ServiceClass.BACKGROUND]
PREFIX = make_prompt(16)
MAX_LEN = 48


@dataclass(frozen=True)
class Arrival:
    step: int
    request: EngineRequest


@st.composite
def arrivals(draw: st.DrawFn, *, shares_prefixes: bool) -> list[Arrival]:
    """Lines of batches and requests of clients, each before some step."""
    every = []
    for index in range(draw(st.integers(1, 8))):
        service_class = draw(st.sampled_from([ServiceClass.BATCH, ServiceClass.BATCH, *CLIENTS]))
        is_batch = service_class is ServiceClass.BATCH
        prompt = PREFIX[: draw(st.integers(0, 16))] + draw(st.lists(st.integers(1, 9), min_size=1, max_size=12))
        request = make_request(
            f"{'line' if is_batch else 'client'} {index}",
            prompt,
            max_tokens=draw(st.integers(1, 20)),
            ignore_eos=draw(st.booleans()),
            tenant=draw(st.sampled_from(["", "a"])),
            cache_salt="batch" if is_batch and not shares_prefixes else "",
            service_class=service_class,
        )
        every.append(Arrival(draw(st.integers(0, 20)), request))
    return every


schedules = st.fixed_dictionaries(
    {
        "block_size": st.sampled_from([1, 4]),
        "max_num_seqs": st.sampled_from([1, 2, 8]),
        "max_num_batched_tokens": st.sampled_from([4, 9, 64]),
        "enable_prefix_caching": st.sampled_from([True, True, False]),
        "windows": st.sampled_from([(None,), (None,), (None, 5), (-6,)]),
        "num_states": st.sampled_from([0, 0, 16]),
    }
)


def play(run: SchedulerRun, every: list[Arrival]) -> list[dict[str, int]]:
    """The tokens that clients get of each step, of those too in which there is nothing to do."""
    plans = []
    for step in range(2000):
        for arrival in every:
            if arrival.step == step:
                run.add(arrival.request)
        if not run.scheduler.has_work:
            plans.append({})
            if step > 20:
                return plans
            continue
        run.step()
        plans.append({name: num_new for name, num_new, _ in run.plans[-1] if name.startswith("client")})
        assert not plans[-1] or len(plans[-1]) == len(run.plans[-1]), "a line is computed beside a client"
    raise AssertionError("it does not end")


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    every=arrivals(shares_prefixes=True),
    schedule=schedules,
    spare=st.integers(0, 24),
    drafts=st.booleans(),
    batch_tokens=st.sampled_from([None, 1, 3, 20]),
)
def test_lines_and_clients_get_their_tokens_and_share_no_step(
    every: list[Arrival], schedule: dict[str, Any], spare: int, drafts: bool, batch_tokens: int | None
) -> None:
    num_blocks = (MAX_LEN // schedule["block_size"] + spare) * len(schedule["windows"])
    config = make_config(num_blocks=num_blocks, **schedule)
    budget = None
    if batch_tokens is not None:
        budget = StepBudget(config.max_num_batched_tokens, 0.01, batch_step_s=0.01 * batch_tokens)
    run = SchedulerRun(config, half_right_draft if drafts else None, budget=budget)
    play(run, every)
    assert run.transcript.ids == {each.request.id: expected_ids(each.request) for each in every}


@settings(max_examples=50, deadline=None, derandomize=True)
@given(every=arrivals(shares_prefixes=False), schedule=schedules)
def test_clients_are_computed_in_the_steps_in_which_they_would_be_without_a_batch(
    every: list[Arrival], schedule: dict[str, Any]
) -> None:
    clients = [each for each in every if each.request.service_class is not ServiceClass.BATCH]
    config = make_config(num_blocks=400, **{**schedule, "num_states": 400 if schedule["num_states"] else 0})
    alone, beside = play(SchedulerRun(config), clients), play(SchedulerRun(config), every)
    length = max(len(alone), len(beside))
    assert alone + [{}] * (length - len(alone)) == beside + [{}] * (length - len(beside))


def arrive_at_random(seed: int) -> tuple[SchedulerRun, list[EngineRequest]]:
    """Run lines of batches and a few clients' requests, with a few prefixes, in a pool that is often full."""
    draw = random.Random(seed)
    config = make_config(
        num_blocks=draw.randint(12, 18),
        block_size=draw.choice([2, 4]),
        max_num_seqs=draw.randint(2, 6),
        max_num_batched_tokens=draw.randint(6, 40),
        windows=draw.choice([(None,), (None, 6), (5,), (None, -7)]),
        scheduling_policy=draw.choice(list(SchedulingPolicy)),
    )
    run, requests = SchedulerRun(config, feeds=draw.random() < 0.5), []
    for index in range(draw.randint(4, 14)):
        num_output = draw.randint(1, 10)
        length = draw.randint(1, min(config.max_model_len, 40) - num_output)
        is_client = draw.random() < 0.25
        request = make_request(
            f"r{index}",
            make_prompt(length, seed=draw.randint(0, 2)),
            max_tokens=num_output,
            tenant=draw.choice(["", "a", "b"]),
            service_class=ServiceClass.INTERACTIVE if is_client else ServiceClass.BATCH,
            priority=draw.randint(0, 3),
        )
        requests.append(request)
        run.add(request)
        for _ in range(draw.randint(0, 4)):
            run.step()
    run.finish()
    return run, requests


@pytest.mark.parametrize("seed", [14, 94, 110, 200, 222, 276])
def test_a_line_is_admitted_only_if_it_need_not_take_protected_blocks(seed: int) -> None:
    """And a prompt that is computed again after a preemption counts once as written to the prefix cache."""
    run, requests = arrive_at_random(seed)
    assert run.transcript.ids == {each.id: expected_ids(each) for each in requests}
    for each in requests:
        last = run.transcript.last[each.id]
        assert last.num_cached_tokens + last.num_written_tokens <= len(each.prompt_ids)
