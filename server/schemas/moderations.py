"""Body and response of POST /v1/moderations."""

from typing import Annotated, Any, Literal

import msgspec
from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from server.schemas.base import TEXT_ONLY, StrictModel, by_type
from server.schemas.decision_fields import LabelFields
from server.schemas.decisions_answers import DecisionUsage

MAX_ITEMS = 400  # of an input


class ModerationPart(StrictModel):
    """A part of one text."""

    type: Literal["text"]
    text: str


class ModerationText(ModerationPart):
    """One of several texts, for which the body has a string."""


_read_part = by_type({"text": ModerationPart}, refused={"image_url": TEXT_ONLY})


def _item(value: Any) -> ModerationPart:
    if isinstance(value, str):
        return ModerationText(type="text", text=value)
    if not isinstance(value, dict):
        raise PydanticCustomError("item", "it must be a string, or an object with the type text")
    part: ModerationPart = _read_part(value)
    return part


def _items(value: Any) -> Any:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise PydanticCustomError("input", "it must be a string, a list of strings, or a list of objects with texts")
    return value


def _of_one_kind(items: list[ModerationPart]) -> list[ModerationPart]:
    kinds = [type(item) for item in items]
    if len({*kinds}) > 1:
        odd = next(number for number, kind in enumerate(kinds) if kind is not kinds[0])
        raise PydanticCustomError(
            "mixed",
            "its item {odd} is of another kind than the first; all must be strings, or all objects",
            {"odd": odd},
        )
    return items


_Items = Annotated[
    list[Annotated[ModerationPart, BeforeValidator(_item, json_schema_input_type=str | ModerationPart)]],
    Field(fail_fast=True, min_length=1, max_length=MAX_ITEMS),
    AfterValidator(_of_one_kind),
]


class ModerationRequest(LabelFields):
    """The body of POST /v1/moderations. A list of strings has a result for each, a list of parts one for all.

    min_mass: below it the request is refused.
    """

    input: Annotated[_Items, BeforeValidator(_items, json_schema_input_type=str | _Items)]

    inner_fields = ("input",)

    @property
    def texts(self) -> list[tuple[str, str]]:
        """Each text with its path in the body."""
        if isinstance(self.input[0], ModerationText) and len(self.input) > 1:
            return [(item.text, f"input[{number}]") for number, item in enumerate(self.input)]
        return [("\n".join(item.text for item in self.input), "input")]


class ModerationResult(msgspec.Struct, kw_only=True):
    """The result for one text. The keys are OpenAI's 13 categories.

    categories: whether the score is at least the server's threshold. category_scores: from 0 to 1; 0 if the model has
    no word for the category. category_applied_input_types: ["text"], or [] if the model has no word for the category.
    """

    flagged: bool  # whether any category is
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[Literal["text"]]]


class ModerationAnswer(msgspec.Struct, kw_only=True):
    id: str
    model: str
    results: list[ModerationResult]  # in the texts' order
    usage: DecisionUsage
