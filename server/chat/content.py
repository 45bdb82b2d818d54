"""Messages of a conversation: content parts, tool calls, and extra fields for the chat template."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["developer", "system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class TextPart:
    text: str


ContentPart = TextPart  # a part of another kind, such as an image, joins this type


@dataclass(frozen=True, slots=True)
class EarlierCall:
    """A tool call of an earlier assistant message. path: field path of the call in the client's request; None if the
    same as in OpenAI's API."""

    name: str
    arguments: str  # JSON
    id: str | None = None
    path: str | None = None


@dataclass(slots=True)
class ChatMessage:
    """One message. fields: extra fields for the chat template. path: field path of the message in the client's
    request; None if the same as in OpenAI's API."""

    role: Role
    parts: list[ContentPart] = field(default_factory=list)
    calls: list[EarlierCall] = field(default_factory=list)
    tool_call_id: str | None = None  # in a tool result: the id of the call
    fields: dict[str, Any] = field(default_factory=dict)
    path: str | None = None

    @property
    def num_characters(self) -> int:
        return sum(len(part.text) for part in self.parts)


def text_parts(text: str) -> list[ContentPart]:
    return [TextPart(text)] if text else []


def template_message(message: ChatMessage) -> dict[str, Any]:
    """Return the message as a dict in OpenAI's format, which chat templates read."""
    written: dict[str, Any] = {**message.fields, "role": message.role, "content": _content(message.parts)}
    if message.tool_call_id is not None:
        written["tool_call_id"] = message.tool_call_id
    if message.calls:
        written["tool_calls"] = [_call(call) for call in message.calls]
    return written


def _content(parts: Sequence[ContentPart]) -> str | list[Mapping[str, Any]]:
    """Return the content as a string, which every template accepts, or as a list if it has several parts."""
    if len(parts) < 2:
        return "".join(part.text for part in parts)
    return [{"type": "text", "text": part.text} for part in parts]


def _call(call: EarlierCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    written = {"type": "function", "function": function}
    return written if call.id is None else {"id": call.id, **written}
