"""Messages of a conversation: parts of content, calls of tools, and fields for the chat template."""

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
    """A call in an earlier answer. path: of the call in the client's request, if it differs from OpenAI's."""

    name: str
    arguments: str  # JSON
    id: str | None = None
    path: str | None = None


@dataclass(slots=True)
class ChatMessage:
    """One message. fields: passed to the chat template unchanged. path: as in EarlierCall."""

    role: Role
    parts: list[ContentPart] = field(default_factory=list)
    calls: list[EarlierCall] = field(default_factory=list)
    tool_call_id: str | None = None  # of a tool's result: the call that it answers
    fields: dict[str, Any] = field(default_factory=dict)
    path: str | None = None

    @property
    def num_characters(self) -> int:
        return sum(len(part.text) for part in self.parts)


def text_parts(text: str) -> list[ContentPart]:
    return [TextPart(text)] if text else []


def template_message(message: ChatMessage) -> dict[str, Any]:
    """Return the message in the form of OpenAI's API, which chat templates read."""
    written: dict[str, Any] = {**message.fields, "role": message.role, "content": _content(message.parts)}
    if message.tool_call_id is not None:
        written["tool_call_id"] = message.tool_call_id
    if message.calls:
        written["tool_calls"] = [_call(call) for call in message.calls]
    return written


def _content(parts: Sequence[ContentPart]) -> str | list[Mapping[str, Any]]:
    """Return a single part as a string, which every template takes. The template decides how several are joined."""
    if len(parts) < 2:
        return "".join(part.text for part in parts)
    return [{"type": "text", "text": part.text} for part in parts]


def _call(call: EarlierCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    written = {"type": "function", "function": function}
    return written if call.id is None else {"id": call.id, **written}
