"""StepBudget: how many tokens a step has, from how long steps take."""

import pytest

from engine.scheduling.step_budget import StepBudget

pytestmark = pytest.mark.fast


def test_a_number_that_was_asked_for_stays() -> None:
    budget = StepBudget(100)

    budget.observe(100, step_s=100.0)

    assert (budget.tokens(0), budget.tokens(50), budget.max_tokens) == (100, 100, 100)


@pytest.mark.parametrize(
    ("tokens_per_second", "alone", "beside"),
    [
        (10_000, 4992, 2496),  # half a second and a quarter, down to a whole 32
        (1024, 512, 256),
        (1_000_000, 8192, 8192),
    ],
)
def test_steps_are_shorter_while_sequences_generate(tokens_per_second: float, alone: int, beside: int) -> None:
    budget = StepBudget(None, 1 / tokens_per_second)

    assert (budget.tokens(0), budget.tokens(1)) == (alone, beside)
    assert budget.tokens(0) <= budget.max_tokens


@pytest.mark.parametrize("num_generating", [0, 1, 1000])
def test_prompts_get_on_beside_any_number_of_generating_sequences(num_generating: int) -> None:
    assert StepBudget(None, seconds_per_token=1.0).tokens(num_generating) == num_generating + 64


def test_speed_is_learned_from_steps_with_many_tokens() -> None:
    budget = StepBudget(None, seconds_per_token=1e-2)

    for _ in range(20):
        budget.observe(512, step_s=0.512)
        budget.observe(1, step_s=0.1)  # a decode step says nothing of prompts

    assert budget.tokens(0) == 480  # 500 less what is not a whole 32
    for _ in range(100):
        budget.observe(512, step_s=1.024)
    assert budget.tokens(0) == 224


def test_a_disturbed_step_shortens_the_next_ones_little() -> None:
    budget = StepBudget(None, seconds_per_token=1e-3)

    budget.observe(500, step_s=2.5)

    assert budget.tokens(0) == 352


def test_a_shortage_of_memory_halves_steps_until_they_suffice_for_a_while() -> None:
    budget = StepBudget(100)
    assert budget.shrink(90)
    assert budget.tokens(0) == 45
    budget.observe(44, step_s=1.0)  # says nothing of steps of 45
    for _ in range(15):
        budget.observe(45, step_s=1.0)
    assert budget.tokens(0) == 45
    budget.observe(45, step_s=1.0)
    assert budget.tokens(0) == 90
    assert budget.shrink(90)  # too much still
    for _ in range(31):
        budget.observe(45, step_s=1.0)
    assert budget.tokens(0) == 45, "the second time it takes twice as long"
    for _ in range(1 + 32):
        budget.observe(budget.tokens(0), step_s=1.0)
    assert budget.tokens(0) == 100


def test_a_step_of_one_token_cannot_be_smaller() -> None:
    budget = StepBudget(None, 0.001)
    assert budget.shrink(3)
    assert budget.tokens(5) == 1
    assert not budget.shrink(1)
