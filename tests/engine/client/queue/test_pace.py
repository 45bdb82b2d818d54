"""What steps cost is learned from steps, whatever their sizes."""

import random

import pytest

from engine.client.queue.pace import StepPace
from engine.scheduling.steps.budget import StepBudget
from engine.scheduling.steps.cost import StepSample

pytestmark = pytest.mark.fast


def _pace(sizes: list[int], *, overhead_s: float, seconds_per_token: float, noise: float = 0.0) -> StepPace:
    pace, source = StepPace(), random.Random(1)
    for size in sizes:
        step_s = (overhead_s + seconds_per_token * size) * source.uniform(1 - noise, 1 + noise)
        pace.observe(size, step_s, min(size, 8), min(size, 8))
    return pace


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_time_of_a_long_prompt_follows_from_steps_of_all_sizes(noise: float) -> None:
    source = random.Random(2)
    sizes = [source.choice([8, 8, 8, 200, 400]) for _ in range(200)]
    pace = _pace(sizes, overhead_s=0.02, seconds_per_token=0.001, noise=noise)
    predicted_s = pace.prefill_s(1000, num_generating=0, max_step_tokens=250)
    assert predicted_s == pytest.approx(1.0 + 4 * 0.02, rel=0.02 + noise)


def test_steps_of_one_size_keep_what_a_token_was_known_to_take() -> None:
    pace = StepPace()
    pace.set_measured(0.001, 0.0)
    for _ in range(500):
        pace.observe(8, 0.028, 8, 8)
    assert pace.prefill_s(1000, num_generating=0, max_step_tokens=250) == pytest.approx(1.0 + 4 * 0.02)


@pytest.mark.parametrize(
    ("num_generating", "overhead_s", "seconds_per_token"),
    [(0, 0.02, 1e-3), (10, 0.01, 1e-3), (10, 0.09, 1e-3), (2, 0.01, 0.05)],
)
def test_steps_are_taken_to_be_as_long_as_the_engine_makes_them(
    num_generating: int, overhead_s: float, seconds_per_token: float
) -> None:
    """Of half a second alone; beside streams of 70 ms, or two and a half that only generate, or of eight tokens."""
    budget = StepBudget(None, seconds_per_token)
    decode_s = overhead_s + num_generating * seconds_per_token
    for _ in range(10):
        budget.observe(StepSample(num_generating, 0, 0.0, decode_s))
    num_steps = 10_000 / (budget.tokens(num_generating) - num_generating)
    pace = _pace([8, 400] * 50, overhead_s=overhead_s, seconds_per_token=seconds_per_token)

    predicted_s = pace.prefill_s(10_000, num_generating=num_generating, max_step_tokens=8192)

    assert predicted_s == pytest.approx(10_000 * seconds_per_token + num_steps * decode_s, rel=0.03)


def test_steps_of_a_fixed_size_take_what_they_take() -> None:
    pace = _pace([8, 400] * 50, overhead_s=0.02, seconds_per_token=0.001)
    timed_s = pace.prefill_s(5000, num_generating=8, max_step_tokens=1000)
    fixed_s = pace.prefill_s(5000, num_generating=8, max_step_tokens=1000, is_timed=False)
    assert fixed_s == pytest.approx(5.0 + 5 * 0.028, rel=0.01)
    assert timed_s > 1.2 * fixed_s


def test_a_mean_of_steps_is_all_there_is_without_any_other_knowledge() -> None:
    pace = StepPace()
    pace.observe(10, 0.1, 0, 0)
    assert pace.prefill_s(20, num_generating=0, max_step_tokens=100) == pytest.approx(0.2)


def test_those_that_generate_take_their_part_of_each_step() -> None:
    pace = _pace([8, 400] * 50, overhead_s=0.0, seconds_per_token=0.001)
    alone_s = pace.prefill_s(50, num_generating=0, max_step_tokens=100)
    beside_s = pace.prefill_s(50, num_generating=8, max_step_tokens=100)
    assert beside_s - alone_s == pytest.approx(0.008)


def test_a_faster_or_slower_machine_is_noticed() -> None:
    pace = _pace([8, 200] * 100, overhead_s=0.02, seconds_per_token=0.001)
    for _ in range(200):
        for size in (8, 200):
            pace.observe(size, 0.04 + 0.002 * size, 8, 8)
    assert pace.prefill_s(100, num_generating=0, max_step_tokens=100) == pytest.approx(0.24, rel=0.1)


def test_the_time_between_a_sequences_tokens_counts_accepted_drafts() -> None:
    pace = StepPace()
    assert pace.seconds_per_output_token == 0.0
    for _ in range(100):
        pace.observe(12, 0.06, 4, 8)  # two tokens each
    assert pace.seconds_per_output_token == pytest.approx(0.03)


def test_what_the_warm_up_measured_holds_until_there_are_more_steps() -> None:
    """The first steps have prompts in them: their time is not that between tokens."""
    pace = StepPace()
    pace.set_measured(0.001, 0.02)
    assert pace.seconds_per_output_token == pytest.approx(0.02)
    assert pace.prefill_s(100, num_generating=0, max_step_tokens=500) == pytest.approx(0.119)
    pace.observe(500, 0.5, 8, 8)
    assert pace.seconds_per_output_token < 0.05
    for _ in range(500):
        pace.observe(500, 0.5, 8, 8)
    assert pace.seconds_per_output_token == pytest.approx(0.5, rel=0.01)


def test_prompts_that_are_cached_cost_nothing() -> None:
    pace = StepPace()
    assert pace.uncached == 1.0
    for _ in range(50):
        pace.observe_prefixes(100, 75)
        pace.observe_prefixes(0, 0)
    assert pace.uncached == pytest.approx(0.25)


def test_nothing_is_known_at_first() -> None:
    assert StepPace().prefill_s(1000, num_generating=4, max_step_tokens=100) == 0.0
