"""What steps cost is learned from steps, whatever their sizes."""

import random

import pytest

from engine.client.pace import StepPace

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
    predicted_s = pace.prefill_s(1000, num_generating=0, max_step_tokens=500)
    assert predicted_s == pytest.approx(1.0 + 4 * 0.02, rel=0.02 + noise)  # steps of a quarter of a second


def test_steps_of_one_size_keep_what_a_token_was_known_to_take() -> None:
    pace = StepPace()
    pace.begin(0.001)
    for _ in range(500):
        pace.observe(8, 0.028, 8, 8)
    assert pace.prefill_s(1000, num_generating=0, max_step_tokens=1000) == pytest.approx(1.0 + 4 * 0.02)


def test_a_mean_of_steps_is_all_there_is_without_any_other_knowledge() -> None:
    pace = StepPace()
    pace.observe(10, 0.1, 0, 0)
    assert pace.prefill_s(20, num_generating=0, max_step_tokens=100) == pytest.approx(0.2)


def test_those_that_generate_take_their_part_of_each_step() -> None:
    pace = _pace([8, 400] * 50, overhead_s=0.0, seconds_per_token=0.001)
    alone_s = pace.prefill_s(100, num_generating=0, max_step_tokens=100)
    beside_s = pace.prefill_s(100, num_generating=8, max_step_tokens=100)
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


def test_prompts_that_are_cached_cost_nothing() -> None:
    pace = StepPace()
    assert pace.uncached == 1.0
    for _ in range(50):
        pace.observe_prefixes(100, 75)
        pace.observe_prefixes(0, 0)
    assert pace.uncached == pytest.approx(0.25)


def test_nothing_is_known_at_first() -> None:
    assert StepPace().prefill_s(1000, num_generating=4, max_step_tokens=100) == 0.0
