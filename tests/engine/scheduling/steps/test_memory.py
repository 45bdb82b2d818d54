"""StepMemory: after a shortage of memory no step exceeds the limit, whatever the tokens of prompts cost."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.scheduling.fairness.account import TenantAccount
from engine.scheduling.sequence import Sequence
from engine.scheduling.steps.budget import StepBudget, StepMemory
from engine.scheduling.steps.cost import StepSample
from engine.scheduling.steps.split import StepSplit
from tests.helpers.engines import (
    SchedulerRun,
    expected_ids,
    half_right_draft,
    make_config,
    make_prompt,
    make_request,
)

pytestmark = pytest.mark.fast

TOKEN_S = 1e-3


def budget_after_shortage(
    limit: int, *, decode_s: float = 0.03, token_s: float = TOKEN_S, position_cost: float = 0.0
) -> StepBudget:
    """One that knows how long generation takes; limit: what memory suffices for from now on."""
    budget = StepBudget(None, token_s, position_cost)
    budget.observe(StepSample(1, 0, 0.0, decode_s))
    assert budget.shrink(2 * limit)
    return budget


def stream(number: int, num_draft: int = 0) -> Sequence:
    sequence = sequence_of(number, length=5)
    sequence.tokens.append(1)
    sequence.num_computed = 5
    sequence.draft = [1] * num_draft
    return sequence


def sequence_of(number: int, length: int, *, num_computed: int = 0) -> Sequence:
    request = make_request(str(number), [1] * length)
    sequence = Sequence(
        request=request, seed=0, tokens=[1] * length, num_prompt=length, account=TenantAccount(str(number % 3))
    )
    sequence.order = (sequence.service.rank, 0, 0.0, number, 0)
    sequence.num_computed = num_computed
    return sequence


def split_step(budget: StepBudget, sequences: list[Sequence], num_generating: int) -> dict[Sequence, int]:
    return StepSplit(sequences, budget.tokens(num_generating), threshold=0, cost=budget.costs(num_generating)).tokens()


@pytest.mark.parametrize(("limit", "num_streams"), [(80, 64), (32, 32), (32, 40), (8, 9), (1, 1)])
@pytest.mark.parametrize("num_draft", [0, 3])
def test_a_step_beside_streams_has_no_more_than_memory_suffices_for(
    limit: int, num_streams: int, num_draft: int
) -> None:
    budget = budget_after_shortage(limit)
    streams = [stream(number, num_draft if number == 0 else 0) for number in range(num_streams)]

    tokens = split_step(budget, [*streams, sequence_of(num_streams, 4000)], num_streams)

    assert sum(tokens.values()) == limit


COSTS = {
    "limit": st.integers(1, 300),
    "decode_s": st.sampled_from([0.0, 1e-4, 0.011, 0.03, 0.1, 1.0]),
    "token_s": st.sampled_from([1e-9, 1e-5, 1e-3, 0.1, 2.0]),
    "position_cost": st.sampled_from([0.0, 1e-5, 1e-3, 0.1]),
}


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    **COSTS,
    num_streams=st.integers(0, 40),
    drafts=st.lists(st.integers(0, 6), max_size=5),
    prompts=st.lists(st.tuples(st.integers(2, 4000), st.sampled_from([0, 1, 1000, 30_000])), min_size=1, max_size=4),
    is_prompt_first=st.booleans(),
    disturbances=st.lists(st.tuples(st.integers(1, 500), st.floats(0, 2)), max_size=5),
)
def test_whatever_tokens_cost_no_step_exceeds_the_limit(
    limit: int,
    decode_s: float,
    token_s: float,
    position_cost: float,
    num_streams: int,
    drafts: list[int],
    prompts: list[tuple[int, int]],
    is_prompt_first: bool,
    disturbances: list[tuple[int, float]],
) -> None:
    budget = StepBudget(None, token_s, position_cost)
    budget.observe(StepSample(1, 0, 0.0, decode_s))
    for num_tokens, step_s in disturbances:
        budget.observe(StepSample(num_tokens + num_streams, num_tokens, 10_000.0, step_s))
    assert budget.shrink(2 * limit)
    drafts = [*drafts, *[0] * num_streams][:num_streams]
    first = 10 if is_prompt_first else 1000  # streams are 100 and after
    sequences = [stream(100 + number, num_draft) for number, num_draft in enumerate(drafts)]
    sequences += [
        sequence_of(first + number, begin + length, num_computed=begin)
        for number, (length, begin) in enumerate(prompts)
    ]
    sequences.sort(key=lambda sequence: sequence.order)

    tokens = split_step(budget, sequences, num_streams)

    assert sum(tokens.values()) <= limit
    assert tokens[sequences[0]] >= 1


@settings(max_examples=300, deadline=None, derandomize=True)
@given(**COSTS, num_generating=st.one_of(st.integers(0, 400), st.just(9000)), position=st.integers(0, 100_000))
def test_a_prompts_token_costs_one_at_its_beginning_at_least(
    limit: int, decode_s: float, token_s: float, position_cost: float, num_generating: int, position: int
) -> None:
    budget = budget_after_shortage(limit, decode_s=decode_s, token_s=token_s, position_cost=position_cost)

    cost = budget.costs(num_generating)(position)

    assert cost.token >= 1
    assert cost.context >= 0


@settings(max_examples=200, deadline=None, derandomize=True)
@given(**COSTS, num_streams=st.integers(0, 40), length=st.integers(2, 4000), begin=st.sampled_from([0, 30_000]))
def test_steps_of_a_batch_do_not_exceed_the_limit_either(
    limit: int, decode_s: float, token_s: float, position_cost: float, num_streams: int, length: int, begin: int
) -> None:
    budget = StepBudget(None, token_s, position_cost, decode_s=decode_s, batch_step_s=0.1)
    assert budget.shrink(2 * limit)
    num_tokens, cost = budget.tokens(num_streams, is_batch=True), budget.costs(num_streams, is_batch=True)
    sequences = [*map(stream, range(num_streams)), sequence_of(1000, begin + length, num_computed=begin)]

    tokens = StepSplit(sequences, num_tokens, threshold=0, cost=cost).tokens()

    assert 1 <= sum(tokens.values()) <= limit


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    shortages=st.sets(st.integers(0, 40), min_size=1, max_size=5),
    decode_s=st.sampled_from([0.0, 0.011, 0.03, 0.1]),
    lengths=st.lists(st.integers(1, 60), min_size=2, max_size=8),
    drafts=st.booleans(),
)
def test_sequences_end_right_in_steps_that_memory_suffices_for(
    shortages: set[int], decode_s: float, lengths: list[int], drafts: bool
) -> None:
    """shortages: the steps after which memory runs out in one of as many tokens. A sequence comes every other step."""
    budget = StepBudget(None, TOKEN_S, 1e-2)
    budget.observe(StepSample(1, 0, 0.0, decode_s))
    run = SchedulerRun(make_config(num_blocks=400), half_right_draft if drafts else None, budget=budget)
    requests = [make_request(str(n), make_prompt(length, n), max_tokens=12) for n, length in enumerate(lengths)]
    limit = 8192
    while run.scheduler.has_work or len(run.plans) < 2 * len(requests):
        if len(run.plans) % 2 == 0 and len(run.plans) < 2 * len(requests):
            run.add(requests[len(run.plans) // 2])
        run.step()
        num_tokens = sum(num_new for _, num_new, _ in run.plans[-1])
        assert num_tokens <= limit
        if len(run.plans) - 1 in shortages and budget.shrink(num_tokens):
            limit = num_tokens // 2
    assert run.transcript.ids == {request.id: expected_ids(request) for request in requests}


def test_a_shortage_never_raises_the_limit() -> None:
    memory = StepMemory(8192)
    assert memory.shrink(64)

    assert memory.shrink(4000)

    assert memory.limit(8192) == 16
