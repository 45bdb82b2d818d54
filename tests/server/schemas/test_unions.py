"""Faults of values that may be of several types: the path is the client's, and all types are named."""

from typing import Any

import pytest

from engine.errors import InvalidRequest
from server.schemas.base import StrictModel, validate

pytestmark = pytest.mark.fast


class _Option(StrictModel):
    value: str | bool


class _Body(StrictModel):
    choices: list[_Option] | None = None
    words: list[int] | str | None = None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"choices": [{"value": ""}, {"value": 1}]}, "choices[1].value is 1; it must be a string or true or false"),
        ({"choices": [{"value": {}}]}, "choices[0].value is an object; it must be a string or true or false"),
        ({"choices": [{}]}, "choices[0].value is missing; it is required"),
        ({"choices": 3}, "choices is 3; it must be a list"),
        ({"words": [1, "x"]}, "words[1] is 'x'; it must be an integer"),
        ({"words": {"a": 1}}, "words is an object; it must be a list or a string"),
    ],
)
def test_the_path_has_no_name_of_a_type(body: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        validate(_Body, body)
    assert str(raised.value) == message
    assert raised.value.param == message.partition(" is ")[0]
