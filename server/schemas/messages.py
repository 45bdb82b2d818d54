"""Bodies of POST /v1/messages and /v1/messages/count_tokens, in Anthropic's shapes."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from server.schemas.base import INT32, MAX_MESSAGES, TEXT_ONLY, UNSUPPORTED, StrictModel

# Tools that Anthropic defines, by a name and the date of a version; only its own models know their inputs.
_DEFINED_TOOL = re.compile(r"\w+_20\d{6}")


class _Block(StrictModel):
    """A content block. cache_control has no effect, since the server caches automatically."""

    cache_control: Any = None

    @property
    def extra(self) -> dict[str, Any]:
        return {name: value for name, value in super().extra.items() if value is not None}


class TextBlock(_Block):
    type: Literal["text"]
    text: str


def _text_block(value: Any) -> Any:
    if isinstance(value, dict) and isinstance(kind := value.get("type"), str) and kind != "text":
        raise PydanticCustomError(UNSUPPORTED, "its type is {kind}: {why}", {"kind": kind[:60], "why": TEXT_ONLY})
    return value


def _listed(value: Any) -> Any:
    """Convert content that is a string to a list of one text block."""
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    if not isinstance(value, list):
        raise PydanticCustomError("content", "it must be a string or a list of content blocks")
    return value


def _listed_or_none(value: Any) -> Any:
    return None if value is None else _listed(value)


_TextBlocks = list[Annotated[TextBlock, BeforeValidator(_text_block)]]
Texts = Annotated[_TextBlocks | None, BeforeValidator(_listed_or_none, json_schema_input_type=str | _TextBlocks | None)]


class ToolUseBlock(_Block):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class ToolResultBlock(_Block):
    type: Literal["tool_result"]
    tool_use_id: str
    content: Texts = None
    is_error: bool | None = None


class ThinkingBlock(_Block):
    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(_Block):
    """An encrypted thought, which only Anthropic's servers can read."""

    type: Literal["redacted_thinking"]
    data: str | None = None


ContentBlock = TextBlock | ToolUseBlock | ToolResultBlock | ThinkingBlock | RedactedThinkingBlock
_BLOCKS: dict[str, type[ContentBlock]] = {
    "text": TextBlock,
    "tool_use": ToolUseBlock,
    "tool_result": ToolResultBlock,
    "thinking": ThinkingBlock,
    "redacted_thinking": RedactedThinkingBlock,
}


def _block(value: Any) -> ContentBlock:
    """Validate a content block as the model of its type, since pydantic's error for the union would be unclear."""
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(kind, str):
        raise PydanticCustomError("block", "it must be an object with a type")
    if kind in ("image", "document"):
        raise PydanticCustomError(UNSUPPORTED, "its type is {kind}: {why}", {"kind": kind, "why": TEXT_ONLY})
    if kind not in _BLOCKS:
        raise PydanticCustomError(
            UNSUPPORTED,
            "blocks of type {kind} are not supported; this server takes {known}",
            {"kind": kind[:60], "known": ", ".join(_BLOCKS)},
        )
    return _BLOCKS[kind].model_validate(value)


class MessageParam(StrictModel):
    role: Literal["user", "assistant", "system"]
    content: Annotated[
        Annotated[list[Annotated[ContentBlock, BeforeValidator(_block)]], Field(fail_fast=True)],
        BeforeValidator(_listed, json_schema_input_type=str | list[ContentBlock]),
    ]

    inner_fields = ("content",)


class ClientTool(_Block):
    """A tool that the client runs."""

    type: Literal["custom"] | None = None
    name: str
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    eager_input_streaming: bool | None = None  # no effect; a call's input is always streamed


class DefinedTool(StrictModel):
    """A tool that Anthropic defines, such as web_search_20250305."""

    type: str
    name: str | None = None

    @property
    def extra(self) -> dict[str, Any]:
        return {}  # the whole tool is listed as ignored


def _tool(value: Any) -> ClientTool | DefinedTool:
    kind = value.get("type") if isinstance(value, dict) else None
    if isinstance(kind, str) and _DEFINED_TOOL.fullmatch(kind):
        return DefinedTool.model_validate(value)
    if isinstance(kind, str) and kind != "custom":
        raise PydanticCustomError(
            UNSUPPORTED, "tools of type {kind} are not supported; this server takes custom ones", {"kind": kind[:60]}
        )
    return ClientTool.model_validate(value)


class MessagesToolChoice(StrictModel):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(StrictModel):
    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Annotated[int, Field(ge=1, le=INT32)] | None = None
    display: Literal["summarized", "omitted", "updates"] | None = None


class OutputFormat(StrictModel):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputConfig(StrictModel):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None


class MessagesPrompt(StrictModel):
    """The request fields that determine the prompt, and the body of POST /v1/messages/count_tokens."""

    model: str | None = None
    messages: Annotated[list[MessageParam], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]
    system: Texts = None
    tools: (
        Annotated[list[Annotated[ClientTool | DefinedTool, BeforeValidator(_tool)]], Field(fail_fast=True)] | None
    ) = None
    tool_choice: MessagesToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None  # the name of output_config.format in earlier betas
    cache_control: Any = None
    thread: Any = None  # a conversation stored by the server, in a beta

    inner_fields = ("tool_choice", "thinking", "output_config", "system", "tools", "messages")


class MessagesRequest(MessagesPrompt):
    max_tokens: Annotated[int, Field(ge=0, le=INT32)]
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stream: bool | None = None
    service_tier: Literal["auto", "standard_only"] | None = None  # answers always have the tier "standard"
