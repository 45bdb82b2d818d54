"""Types of values that a client may leave to the server."""

from typing import Annotated, Any

import pytest

from engine.command_io.finetuning.job import Order
from engine.errors import InvalidRequest
from server.schemas.auto import Named, Number, Whole
from server.schemas.base import StrictModel, validate

pytestmark = pytest.mark.fast


class _Body(StrictModel):
    count: Annotated[int | None, Whole(1, 5)] = None
    rate: Annotated[float | None, Number(0, 2, is_above=True)] = None
    share: Annotated[float | None, Number(0)] = None
    order: Annotated[Order | None, Named(Order)] = None


@pytest.mark.parametrize("field", ["count", "rate", "share", "order"])
@pytest.mark.parametrize("auto", ["auto", None])
def test_auto_and_null_are_none(field: str, auto: str | None) -> None:
    assert validate(_Body, {field: auto}) == _Body()


@pytest.mark.parametrize(
    ("body", "value"),
    [
        ({"count": 3}, 3),
        ({"count": 3.0}, 3),
        ({"rate": 2}, 2.0),
        ({"share": 0}, 0.0),
        ({"order": "length"}, Order.LENGTH),
    ],
)
def test_values_are_taken_as_their_kind(body: dict[str, Any], value: object) -> None:
    (name,) = body
    found = getattr(validate(_Body, body), name)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"count": 0}, 'count is 0; it must be "auto" or a whole number from 1 to 5'),
        ({"count": 2.5}, "count is 2.5; it must be"),
        ({"count": True}, "count is true; it must be"),
        ({"count": "3"}, "count is '3'; it must be"),
        ({"rate": 0}, 'rate is 0; it must be "auto" or a number above 0 and at most 2'),
        ({"share": -1}, 'share is -1; it must be "auto" or a number of at least 0'),
        ({"share": 1e300}, 'share is 1e+300; it must be "auto" or a number of at least 0 and at most 1,000,000,000'),
        ({"share": 10**400}, "share is 1000"),
        ({"share": [1]}, "share is a list of 1 item"),
        ({"order": "size"}, "order is 'size'; it must be \"auto\" or one of none, file, length, difficulty"),
    ],
)
def test_other_values_are_refused_with_what_they_must_be(body: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        validate(_Body, body)
    assert words in str(caught.value)


def test_the_schema_says_the_same() -> None:
    fields = _Body.model_json_schema()["properties"]
    others = [{"const": "auto"}, {"type": "null"}]
    assert fields["count"]["anyOf"] == [{"type": "integer", "minimum": 1, "maximum": 5}, *others]
    assert fields["rate"]["anyOf"] == [{"type": "number", "exclusiveMinimum": 0, "maximum": 2}, *others]
    assert fields["order"]["anyOf"][0] == {"enum": [each.value for each in Order]}
