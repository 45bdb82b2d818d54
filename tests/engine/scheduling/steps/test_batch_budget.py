"""BatchBudget: steps without clients are as long as a client may have to wait, whatever their rows cost."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.scheduling.steps.batch_budget import BatchBudget
from engine.scheduling.steps.budget import StepBudget
from engine.scheduling.steps.cost import StepCost, StepSample

pytestmark = pytest.mark.fast

TARGET_S = 0.05


class Machine:
    """Whose steps take what is given, give or take some noise."""

    def __init__(self, others_s: float, row_s: float, token_s: float, noise: float, seed: int = 0) -> None:
        self._times = others_s, row_s, token_s
        self._noise = noise
        self._random = random.Random(seed)

    def step_s(self, num_rows: int, num_tokens: int) -> float:
        others_s, row_s, token_s = self._times
        exact_s = (others_s + row_s * num_rows if num_rows else 0.0) + token_s * num_tokens
        return exact_s * (1 + self._noise * self._random.uniform(-1, 1))


def run_batch(budget: BatchBudget, machine: Machine, num_steps: int, num_sequences: int = 1000) -> list[float]:
    """Steps in which each sequence's prompt of 40 tokens and output of 60 are computed, by turns; returns how long
    they took."""
    left = num_sequences * 40
    generating: list[int] = []
    steps_s = []
    for _ in range(num_steps):
        num_rows, num_tokens = budget.num_rows(len(generating)), budget.num_prompt_tokens(len(generating))
        if len(generating) >= num_sequences:
            num_tokens = 0
        generating = [each - 1 for each in generating[:num_rows] if each > 1] + generating[num_rows:]
        before, left = left, left - num_tokens
        generating += [60] * (before // 40 - left // 40)
        step_s = machine.step_s(num_rows, num_tokens)
        budget.observe(StepSample(num_rows + num_tokens, num_tokens, 20.0 if num_tokens else 0.0, step_s))
        steps_s.append(step_s)
    return steps_s


@pytest.mark.parametrize("row_s", [0.0002, 0.002, 0.012])
@pytest.mark.parametrize("guessed_factor", [0.3, 1.0, 3.0])
def test_steps_become_as_long_as_they_should(row_s: float, guessed_factor: float) -> None:
    token_s = 0.7 * row_s
    budget = BatchBudget(TARGET_S, StepCost(token_s * guessed_factor), decode_s=0.008 + row_s)
    steps_s = run_batch(budget, Machine(0.008, row_s, token_s, noise=0.1), 600)
    late = sorted(steps_s[100:])
    assert late[len(late) * 9 // 10] < 1.35 * TARGET_S
    assert late[len(late) // 2] > 0.5 * TARGET_S


def test_a_machine_that_is_slow_shares_the_reading_of_weights_all_the_same() -> None:
    budget = BatchBudget(TARGET_S, StepCost(0.01), decode_s=0.1)
    assert budget.target_s == pytest.approx(0.2)
    assert budget.num_rows(64) == 11
    run_batch(budget, Machine(0.09, 0.01, 0.01, noise=0.0), 300)
    assert budget.num_rows(64) == pytest.approx(11, abs=1)


@given(
    st.floats(1e-6, 1.0),
    st.floats(0, 1.0),
    st.lists(st.tuples(st.integers(0, 64), st.integers(0, 64), st.floats(0, 5.0)), max_size=40),
)
def test_whatever_steps_take_something_is_computed(
    token_s: float, decode_s: float, steps: list[tuple[int, int, float]]
) -> None:
    budget = StepBudget(None, token_s, decode_s=decode_s, batch_step_s=TARGET_S)
    for num_rows, num_tokens, step_s in steps:
        if num_rows + num_tokens:
            budget.observe(StepSample(num_rows + num_tokens, num_tokens, 3.0, step_s, is_batch=True))
        for num_generating in (0, 1, 7, 300):
            num_in_step = budget.tokens(num_generating, is_batch=True)
            assert 1 <= num_in_step <= budget.max_tokens
            assert budget.costs(num_generating, is_batch=True)(100).token > 0


def test_what_a_batch_takes_changes_no_step_of_clients() -> None:
    budget = StepBudget(None, 1e-3, decode_s=0.01, batch_step_s=TARGET_S)
    budget.observe(StepSample(1, 0, 0.0, 0.01))
    before = budget.target_s(1), budget.tokens(1), budget.costs(1)(5000)
    for num_rows in range(1, 200):
        budget.observe(StepSample(num_rows, 0, 0.0, 1.0, is_batch=True))
    assert (budget.target_s(1), budget.tokens(1), budget.costs(1)(5000)) == before


def test_a_number_of_tokens_that_was_set_bounds_a_batch_too() -> None:
    budget = StepBudget(32, 1e-6, decode_s=1e-3, batch_step_s=TARGET_S)
    assert (budget.tokens(3, is_batch=True), budget.tokens(3)) == (32, 32)
    slow = StepBudget(32, 1e-2, decode_s=1e-2, batch_step_s=TARGET_S)
    assert (slow.tokens(0, is_batch=True), slow.tokens(0)) == (5, 32)
