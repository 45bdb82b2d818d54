"""The body of POST /v1/decisions: an input, and questions about it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator
from pydantic_core import PydanticCustomError

from server.schemas.base import MAX_MESSAGES, TEXT_ONLY, StrictModel, by_type
from server.schemas.decision_fields import (
    MAX_OPTIONS,
    MAX_QUESTIONS,
    DecisionFields,
    checked_json,
    compact_json,
    distinct,
    not_blank,
)


class CacheBreakpoint(StrictModel):
    mode: Literal["explicit"]


class TextPiece(StrictModel):
    """A part of a text."""

    type: Literal["input_text", "output_text"]
    text: str

    @property
    def written(self) -> str:
        return self.text


class InputPiece(TextPiece):
    """A text of the input. prompt_cache_breakpoint: other requests are likely to begin like this one up to its end."""

    type: Literal["input_text"]
    prompt_cache_breakpoint: CacheBreakpoint | None = None

    inner_fields = ("prompt_cache_breakpoint",)


class RefusalPiece(StrictModel):
    type: Literal["refusal"]
    refusal: str

    @property
    def written(self) -> str:
        return self.refusal


def _json_data(value: Any) -> Any:
    if not isinstance(value, dict) and not (isinstance(value, list) and all(isinstance(each, dict) for each in value)):
        raise PydanticCustomError("json", "it must be an object or a list of objects")
    return checked_json(value)


_Object = dict[str, Any]


class JsonPiece(StrictModel):
    """A JSON value that is read as text."""

    type: Literal["input_json"]
    data: Annotated[_Object | list[_Object], PlainValidator(_json_data, json_schema_input_type=_Object | list[_Object])]

    @property
    def written(self) -> str:
        return compact_json(self.data)


_IMAGES = {"input_image": TEXT_ONLY, "input_file": TEXT_ONLY, "input_audio": TEXT_ONLY}
_PIECES: Mapping[str, type[StrictModel]] = {
    "input_text": TextPiece,
    "output_text": TextPiece,
    "refusal": RefusalPiece,
    "input_json": JsonPiece,
}
_read_piece = by_type(_PIECES, refused=_IMAGES)
_read_input_piece = by_type({**_PIECES, "input_text": InputPiece}, refused=_IMAGES)
Piece = TextPiece | RefusalPiece | JsonPiece
_Piece = Annotated[Piece, BeforeValidator(_read_piece)]
_InputPiece = Annotated[InputPiece | Piece, BeforeValidator(_read_input_piece)]


def _pieces(content: Any) -> Any:
    """Convert a string to a list of one text part."""
    if isinstance(content, str):
        return [{"type": "input_text", "text": content}]
    if not isinstance(content, list):
        raise PydanticCustomError("content", "it must be a string or a list of parts")
    return content


_list_of_pieces = BeforeValidator(_pieces, json_schema_input_type=str | list[_Piece])
_list_of_input = BeforeValidator(_pieces, json_schema_input_type=str | list[_InputPiece])
Pieces = Annotated[Annotated[list[_Piece], Field(fail_fast=True)], _list_of_pieces]
InputPieces = Annotated[Annotated[list[_InputPiece], Field(fail_fast=True)], _list_of_input]


class _Item(StrictModel):
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class InputMessage(_Item):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: InputPieces
    phase: Literal["commentary", "final_answer"] | None = None

    inner_fields = ("content",)


class InputCall(_Item):
    """A call of a function. The arguments are JSON."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    namespace: str | None = None


class InputCustomCall(_Item):
    type: Literal["custom_tool_call"]
    call_id: str
    name: str
    input: str
    namespace: str | None = None


class InputCallOutput(_Item):
    """The output of an earlier call among the items."""

    type: Literal["function_call_output", "custom_tool_call_output"]
    call_id: str
    output: InputPieces

    inner_fields = ("output",)


_read_item = by_type(
    {
        "message": InputMessage,
        "function_call": InputCall,
        "function_call_output": InputCallOutput,
        "custom_tool_call": InputCustomCall,
        "custom_tool_call_output": InputCallOutput,
    },
    default="message",
)
DecisionItem = Annotated[InputMessage | InputCall | InputCustomCall | InputCallOutput, BeforeValidator(_read_item)]


def _items(value: Any) -> Any:
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list):
        raise PydanticCustomError("input", "it must be a string or a list of items")
    return value


_Items = Annotated[list[DecisionItem], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]


class _Question(StrictModel):
    instructions: Pieces | None = None
    name: str | None = None

    inner_fields = ("instructions",)


class PredicateQuestion(_Question):
    """A statement about the input, which may be true."""

    type: Literal["predicate"]
    instructions: Pieces


class ChoiceOption(StrictModel):
    value: Annotated[str | bool, AfterValidator(not_blank)]
    description: str | None = None


class ScoreLevel(StrictModel):
    label: Annotated[str, AfterValidator(not_blank)]
    description: str | None = None


def _choices(choices: list[ChoiceOption]) -> list[ChoiceOption]:
    distinct([choice.value for choice in choices], "value")
    return choices


def _levels(levels: list[ScoreLevel]) -> list[ScoreLevel]:
    distinct([level.label for level in levels], "label")
    return levels


_Limits = Field(fail_fast=True, min_length=2, max_length=MAX_OPTIONS)


class ChoiceQuestion(_Question):
    """A choice of one of several options."""

    type: Literal["choice"]
    choices: Annotated[list[ChoiceOption], _Limits, AfterValidator(_choices)]

    inner_fields = ("choices",)


class ScaleQuestion(_Question):
    """A choice of a level of a scale, whose lowest level is the first."""

    type: Literal["score"]
    levels: Annotated[list[ScoreLevel], _Limits, AfterValidator(_levels)]

    inner_fields = ("levels",)


_read_question = by_type({"predicate": PredicateQuestion, "choice": ChoiceQuestion, "score": ScaleQuestion})
DecisionQuestion = Annotated[PredicateQuestion | ChoiceQuestion | ScaleQuestion, BeforeValidator(_read_question)]


class DecisionRequest(DecisionFields):
    """The body of POST /v1/decisions."""

    input: Annotated[_Items, BeforeValidator(_items, json_schema_input_type=str | _Items)]
    questions: Annotated[list[DecisionQuestion], Field(fail_fast=True, min_length=1, max_length=MAX_QUESTIONS)]

    inner_fields = ("input", "questions")
