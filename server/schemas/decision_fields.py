"""Fields and limits that the bodies of all decisions share, whatever protocol they come from."""

from collections.abc import Collection, Hashable, Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec
from pydantic import Field
from pydantic_core import PydanticCustomError

from server.schemas.base import INT32, StrictModel, quote
from server.schemas.sampling import MAX_TIMEOUT_S

MAX_QUESTIONS = 400
MAX_OPTIONS = 255  # of a choice; levels of a score have the same limit
MAX_PERMUTATIONS = 16
_MAX_DEPTH, _MAX_VALUES, _MAX_JSON_BYTES = 32, 10_000, 256 * 2**10  # of one JSON value that is read as text

V = TypeVar("V")


class LabelFields(StrictModel):
    """Fields of every body whose answer is read from the probabilities of labels. A null field counts as left out.

    min_mass: the least probability that a question's labels must have together.
    """

    model: str | None = None
    min_mass: Annotated[float, Field(ge=0, le=1)] | None = None
    timeout: Annotated[float, Field(gt=0, le=MAX_TIMEOUT_S)] | None = None  # seconds from the request's arrival
    service_tier: Literal["auto", "default", "flex", "priority"] | None = None
    priority: Annotated[int, Field(ge=-INT32, le=INT32)] | None = None
    cache_salt: str | None = None
    if TYPE_CHECKING:
        questions: Collection[Any]  # each protocol's own


class DecisionFields(LabelFields):
    """Fields of a decision besides its input and its questions.

    min_mass: below it a question is refused. permutations: how many rotations of a choice's options are averaged.
    details: whether answers have the labels' own probabilities too. calibrated: false asks for raw probabilities;
    otherwise they are calibrated where a calibration fits the model.
    """

    permutations: Annotated[int, Field(ge=1, le=MAX_PERMUTATIONS)] | None = None  # one
    details: bool | None = None
    calibrated: bool | None = None


def not_blank(value: V) -> V:
    """Return the value. Raises PydanticCustomError for a string without text."""
    if isinstance(value, str) and not value.strip():
        raise PydanticCustomError("blank", "it must have a character other than spaces")
    return value


def distinct(values: Iterable[Hashable], what: str) -> None:
    """Raise PydanticCustomError for the first value that equals an earlier one. A string and a bool are never equal.

    what: the values in the message.
    """
    seen: dict[tuple[type, Hashable], int] = {}
    for number, value in enumerate(values):
        if (first := seen.setdefault((type(value), value), number)) != number:
            raise PydanticCustomError(
                "equal",
                "its items {first} and {second} have the same {what}, {value}",
                {"first": first, "second": number, "what": what, "value": quote(value)},
            )


def checked_json(value: Any) -> Any:
    """Return the value. Raises PydanticCustomError for one that is too large to be read as text."""
    depth, num_values, level = 0, 1, [value]
    while level := [each for each in level if isinstance(each, dict | list)]:
        level = [part for each in level for part in (each.values() if isinstance(each, dict) else each)]
        depth, num_values = depth + 1, num_values + len(level)
    _check_size(depth, _MAX_DEPTH, "levels")
    _check_size(num_values, _MAX_VALUES, "values")
    _check_size(len(msgspec.json.encode(value)), _MAX_JSON_BYTES, "bytes (256 KiB) as compact JSON")
    return value


def _check_size(given: int, most: int, what: str) -> None:
    if given > most:
        fields = {"most": f"{most:,}", "what": what, "given": f"{given:,}"}
        raise PydanticCustomError("json", "it must have at most {most} {what}; it has {given}", fields)


def compact_json(value: Any) -> str:
    """Return the JSON text of a value, without spaces."""
    return msgspec.json.encode(value).decode()
