"""Request fields that define the tools of a chat, and calls of tools in its messages."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from server.schemas.base import UNSUPPORTED, StrictModel, by_type

MAX_TOOLS = 128  # OpenAI's limit
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
NAME_RULE = "1 to 128 letters, digits and _ . - characters"


def is_tool_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def _checked_name(name: str) -> str:
    if not is_tool_name(name):
        raise PydanticCustomError("name", f"it must be {NAME_RULE}")
    return name


Name = Annotated[str, AfterValidator(_checked_name)]


def _only_functions(kind: Any) -> Any:
    if isinstance(kind, str) and kind != "function":
        raise PydanticCustomError(UNSUPPORTED, "this server takes only tools of type function")
    return kind


class FunctionDefinition(StrictModel):
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ChatTool(StrictModel):
    type: Annotated[Literal["function"], BeforeValidator(_only_functions)]
    function: FunctionDefinition


class FunctionName(StrictModel):
    name: str


class NamedTool(StrictModel):
    type: Literal["function"]
    function: FunctionName


class AllowedTools(StrictModel):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1)]


class AllowedToolsChoice(StrictModel):
    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


_read_choice = by_type({"function": NamedTool, "allowed_tools": AllowedToolsChoice})


def _choice(value: Any) -> Any:
    if isinstance(value, dict):
        return _read_choice(value)
    if value not in (None, "none", "auto", "required"):
        raise PydanticCustomError("tool_choice", "it must be none, auto, required, a tool's name or allowed_tools")
    return value


ToolChoice = Annotated[
    Literal["none", "auto", "required"] | NamedTool | AllowedToolsChoice | None, BeforeValidator(_choice)
]


class FunctionCall(StrictModel):
    name: str
    arguments: str


class MessageToolCall(StrictModel):
    """A tool call in an earlier assistant message."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall
