"""Input items of a Responses request: messages, tool calls and their outputs, and reasoning."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from server.schemas.base import TEXT_ONLY, StrictModel, by_type

_OTHER_PARTS = ("input_image", "input_file", "input_audio", "computer_screenshot", "image_url", "file", "audio")

# Calls that other servers make themselves, and their results, which are listed as ignored
HOSTED_ITEMS = (
    "web_search_call",
    "file_search_call",
    "code_interpreter_call",
    "image_generation_call",
    "mcp_list_tools",
    "mcp_call",
    "mcp_approval_request",
    "mcp_approval_response",
    "tool_search_call",
    "tool_search_output",
    "program",
    "program_output",
    "configuration_update",
)

_AS_FUNCTION = "give the call as function_call and its result as function_call_output"
_REFUSED_ITEMS = {
    **dict.fromkeys(
        (
            "local_shell_call",
            "local_shell_call_output",
            "shell_call",
            "shell_call_output",
            "apply_patch_call",
            "apply_patch_call_output",
            "computer_call",
            "computer_call_output",
        ),
        f"models here call functions and custom tools; {_AS_FUNCTION}",
    ),
    "additional_tools": "give all tools in tools",
    "compaction": "this server does not compact; give the items",
    "compaction_trigger": "this server does not compact; leave it out",
}


class TextContentPart(StrictModel):
    """A text part of a message. annotations and logprobs come from an earlier answer that the client sends back."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class RefusalPart(StrictModel):
    type: Literal["refusal"]
    refusal: str

    @property
    def text(self) -> str:
        return self.refusal


class SummaryPart(StrictModel):
    type: Literal["summary_text"]
    text: str


class ThoughtPart(StrictModel):
    type: Literal["reasoning_text", "text"]
    text: str


_read_part = by_type(
    {"input_text": TextContentPart, "output_text": TextContentPart, "text": TextContentPart, "refusal": RefusalPart},
    refused=dict.fromkeys(_OTHER_PARTS, TEXT_ONLY),
)
Part = Annotated[TextContentPart | RefusalPart, BeforeValidator(_read_part)]


def _parts(content: Any) -> Any:
    """Convert content that is a string to a list of one text part."""
    if isinstance(content, str):
        return [{"type": "input_text", "text": content}]
    if not isinstance(content, list):
        raise PydanticCustomError("content", "it must be a string or a list of parts")
    return content


Parts = Annotated[
    Annotated[list[Part], Field(fail_fast=True)], BeforeValidator(_parts, json_schema_input_type=str | list[Part])
]
_Status = Literal["in_progress", "completed", "incomplete"]


class Item(StrictModel):
    """The fields that all input items share. Clients send back the id and status of items that they received."""

    id: str | None = None
    status: _Status | None = None


class MessageItem(Item):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Parts

    inner_fields = ("content",)


class FunctionCallItem(Item):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    namespace: str | None = None


class FunctionCallOutputItem(Item):
    """The output of a function call. name and namespace: those of the called tool."""

    type: Literal["function_call_output"]
    call_id: str
    output: Parts
    name: str | None = None
    namespace: str | None = None

    inner_fields = ("output",)


class CustomToolCallItem(Item):
    type: Literal["custom_tool_call"]
    call_id: str
    name: str
    input: str
    namespace: str | None = None


class CustomToolCallOutputItem(Item):
    type: Literal["custom_tool_call_output"]
    call_id: str
    output: Parts

    inner_fields = ("output",)


class ReasoningItem(Item):
    type: Literal["reasoning"]
    summary: list[SummaryPart] | None = None
    content: list[ThoughtPart] | None = None
    encrypted_content: str | None = None


class ItemReference(Item):
    type: Literal["item_reference"] = "item_reference"
    id: str


class HostedItem(Item):
    """A call of a hosted tool, which ran on another server, or the call's output. Ignored."""

    type: Literal[HOSTED_ITEMS]  # type: ignore[valid-type]
    status: str | None = None  # type: ignore[assignment]  # values differ by kind

    @property
    def extra(self) -> dict[str, Any]:
        return {}  # the whole item is listed as ignored


InputItem = (
    MessageItem
    | FunctionCallItem
    | FunctionCallOutputItem
    | CustomToolCallItem
    | CustomToolCallOutputItem
    | ReasoningItem
    | ItemReference
    | HostedItem
)

_MODELS: Mapping[str, type[StrictModel]] = {
    "message": MessageItem,
    "function_call": FunctionCallItem,
    "function_call_output": FunctionCallOutputItem,
    "custom_tool_call": CustomToolCallItem,
    "custom_tool_call_output": CustomToolCallOutputItem,
    "reasoning": ReasoningItem,
    "item_reference": ItemReference,
    **dict.fromkeys(HOSTED_ITEMS, HostedItem),
}
_read_item = by_type(_MODELS, refused=_REFUSED_ITEMS, default="message")


def _typed(value: Any) -> Any:
    """Validate an item by its type. Without a type, an item is a reference if it has only an id, else a message."""
    if isinstance(value, dict) and value.get("type") is None:
        kind = "item_reference" if value.keys() <= {"id", "type"} else "message"
        return _read_item({**value, "type": kind})
    return _read_item(value)


def _listed(value: Any) -> Any:
    """Convert input that is a string to a list of one user message."""
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": value}]
    if value is not None and not isinstance(value, list):
        raise PydanticCustomError("input", "it must be a string or a list of items")
    return value


Items = Annotated[list[Annotated[InputItem, BeforeValidator(_typed)]], Field(fail_fast=True)]
Input = Annotated[Items | None, BeforeValidator(_listed, json_schema_input_type=str | Items | None)]


class StoredItems(StrictModel):
    """A schema for parsing stored items again: `validate(StoredItems, {"items": ...}).items`."""

    items: Items
