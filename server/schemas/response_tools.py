"""Tools of a Responses request, and its tool choice."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from server.schemas.base import StrictModel, by_type
from server.schemas.tools import MAX_TOOLS, Name

# Tools that OpenAI's servers run, or that only OpenAI's models can call
HOSTED_TOOLS = (
    "web_search",
    "web_search_2025_08_26",
    "web_search_preview",
    "web_search_preview_2025_03_11",
    "file_search",
    "code_interpreter",
    "computer",
    "computer_use",
    "computer_use_preview",
    "image_generation",
    "mcp",
    "local_shell",
    "shell",
    "apply_patch",
    "tool_search",
    "programmatic_tool_calling",
)


class FunctionTool(StrictModel):
    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class TextFormat(StrictModel):
    type: Literal["text"]


class GrammarFormat(StrictModel):
    type: Literal["grammar"]
    syntax: Literal["lark", "regex"]
    definition: str


CustomFormat = Annotated[
    TextFormat | GrammarFormat, BeforeValidator(by_type({"text": TextFormat, "grammar": GrammarFormat}))
]


class CustomTool(StrictModel):
    """A tool whose input is free text, or text that matches a grammar."""

    type: Literal["custom"]
    name: Name
    description: str | None = None
    format: CustomFormat | None = None

    inner_fields = ("format",)


_CALLABLE: Mapping[str, type[StrictModel]] = {"function": FunctionTool, "custom": CustomTool}
_Callable = Annotated[FunctionTool | CustomTool, BeforeValidator(by_type(_CALLABLE))]


class NamespaceTool(StrictModel):
    """A group of tools with a common namespace."""

    type: Literal["namespace"]
    name: Name
    description: str | None = None
    tools: Annotated[list[_Callable], Field(fail_fast=True, min_length=1, max_length=MAX_TOOLS)]


class HostedTool(StrictModel):
    type: Literal[HOSTED_TOOLS]  # type: ignore[valid-type]


ResponseTool = Annotated[
    FunctionTool | CustomTool | NamespaceTool | HostedTool,
    BeforeValidator(by_type({**_CALLABLE, "namespace": NamespaceTool, **dict.fromkeys(HOSTED_TOOLS, HostedTool)})),
]
ResponseTools = Annotated[list[ResponseTool], Field(fail_fast=True, max_length=MAX_TOOLS)]


class NamedChoice(StrictModel):
    type: Literal["function", "custom"]
    name: str
    namespace: str | None = None


class AllowedChoice(StrictModel):
    """A tool choice that restricts the model to `tools`. Hosted tools in it are never called."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[dict[str, Any]], Field(fail_fast=True, min_length=1)]


_read_choice = by_type(
    {"function": NamedChoice, "custom": NamedChoice, "allowed_tools": AllowedChoice},
    refused=dict.fromkeys(HOSTED_TOOLS, "this server does not run that tool"),
)


def _choice(value: Any) -> Any:
    if isinstance(value, dict):
        return _read_choice(value)
    if value not in (None, "none", "auto", "required"):
        raise PydanticCustomError("tool_choice", "it must be none, auto, required or an object with a type")
    return value


ResponseToolChoice = Annotated[
    Literal["none", "auto", "required"] | NamedChoice | AllowedChoice | None, BeforeValidator(_choice)
]
