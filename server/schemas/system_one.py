"""The body of POST /v1/systemone: a state, and named questions about it."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator
from pydantic_core import PydanticCustomError

from server.schemas.base import TEXT_ONLY, StrictModel, by_type, quote
from server.schemas.decision_fields import (
    MAX_OPTIONS,
    MAX_QUESTIONS,
    DecisionFields,
    checked_json,
    compact_json,
    distinct,
    not_blank,
)

_Any = str | dict[str, Any] | list[Any]


def _content(value: Any) -> Any:
    if isinstance(value, dict | list):
        return checked_json(value)
    if not isinstance(value, str):
        raise PydanticCustomError("content", "it must be a string, an object or a list")
    return value


Content = Annotated[_Any, PlainValidator(_content, json_schema_input_type=_Any)]


def content_text(content: Content | None) -> str:
    """Return the content as the model reads it: a text as it is, another value as compact JSON."""
    return content if isinstance(content, str) else "" if content is None else compact_json(content)


class _Question(StrictModel):
    instructions: Content | None = None


class NoulCriteria(StrictModel):
    """Descriptions of the two answers."""

    true: Content | None = None
    false: Content | None = None


class NoulQuestion(_Question):
    """A question with the answers yes and no, or a statement that may be true."""

    type: Literal["noul"]
    criteria: NoulCriteria | None = None

    inner_fields = ("criteria",)


def _labels(labels: dict[str, Any]) -> dict[str, Any]:
    for label in labels:
        if not label.strip():
            fields = {"label": quote(label)}
            raise PydanticCustomError("blank", "its label {label} must have a character other than spaces", fields)
    return labels


class SystemOneChoice(_Question):
    """A choice of one of several labels, each with a description or null."""

    type: Literal["choice"]
    criteria: Annotated[dict[str, Content | None], Field(min_length=1, max_length=MAX_OPTIONS), AfterValidator(_labels)]


def _levels(levels: list[Any]) -> list[Any]:
    distinct(map(content_text, levels), "text")
    return levels


class SystemOneScore(_Question):
    """A choice of a level of a scale, whose lowest level is the first."""

    type: Literal["score"]
    criteria: Annotated[
        list[Annotated[Content, AfterValidator(not_blank)]],
        Field(fail_fast=True, min_length=1, max_length=MAX_OPTIONS),
        AfterValidator(_levels),
    ]


_read_question = by_type(
    {"noul": NoulQuestion, "choice": SystemOneChoice, "score": SystemOneScore}, refused={"box": TEXT_ONLY}
)
SystemOneQuestion = Annotated[NoulQuestion | SystemOneChoice | SystemOneScore, BeforeValidator(_read_question)]


def _questions(value: Any) -> Any:
    """Check the number of questions before they are read."""
    if not isinstance(value, dict):
        raise PydanticCustomError("questions", "it must be an object with a name for each question")
    if not 1 <= len(value) <= MAX_QUESTIONS:
        fields = {"most": MAX_QUESTIONS, "given": f"{len(value):,}"}
        raise PydanticCustomError("questions", "it must have 1 to {most} questions; it has {given}", fields)
    return value


class SystemOneRequest(DecisionFields):
    """The body of POST /v1/systemone."""

    state: Content
    questions: Annotated[
        dict[str, SystemOneQuestion], Field(min_length=1, max_length=MAX_QUESTIONS), BeforeValidator(_questions)
    ]

    inner_fields = ("questions",)
