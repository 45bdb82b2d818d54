"""token_budget: how many tokens a step takes, from the measured speed."""

import pytest

from engine.warmup import token_budget


@pytest.mark.parametrize(
    ("tokens_per_second", "expected"),
    [
        (10_000, 2496),  # a quarter of a second, down to a whole 64
        (1024, 256),
        (100, 128),  # too few tokens would waste the reading of the weights
        (1_000_000, 8192),
    ],
)
def test_token_budget_lasts_a_quarter_of_a_second_within_bounds(tokens_per_second: float, expected: int) -> None:
    assert token_budget(1 / tokens_per_second, max_num_seqs=1) == expected


@pytest.mark.parametrize("tokens_per_second", [100, 1024, 1_000_000])
@pytest.mark.parametrize("max_num_seqs", [129, 1000, 10_000])
def test_token_budget_has_a_token_for_every_sequence(tokens_per_second: float, max_num_seqs: int) -> None:
    budget = token_budget(1 / tokens_per_second, max_num_seqs)
    assert budget == max(max_num_seqs, token_budget(1 / tokens_per_second, 1))
