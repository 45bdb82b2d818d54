"""The prompts of the benchmark of rewards, and what its grader makes of answers to them."""

import json

import pytest

from benchmarks.finetuning import reward


def test_prompts_that_are_held_out_have_names_that_were_never_seen() -> None:
    train, held_out = reward._rows(reward._NAMES, 48, 0), reward._rows(reward._HELD_OUT_NAMES, 16, 1)

    assert len({json.dumps(row) for row in (*train, *held_out)}) == 64
    assert not {row["name"] for row in train} & {row["name"] for row in held_out}
    assert reward._rows(reward._NAMES, 48, 0) == train


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"name": "Ada", "age": 34}', 1.0),
        ('{"age": "34", "name": "Bob"}', 0.5),
        ('```json\n{"name": "Ada", "age": 34}\n```', 0.0),
        ("[1]", 0.0),
    ],
)
def test_half_a_point_is_given_for_each_field_of_json(answer: str, expected: float) -> None:
    assert reward._mean_reward([{"name": "Ada", "age": 34}], [answer]) == expected
