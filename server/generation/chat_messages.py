"""Messages in OpenAI's present form: old names of things as the new ones, thoughts where the template reads them."""

from collections.abc import Sequence
from typing import Any

from server.reasoning.history import for_template
from server.schemas.chat import Message
from server.schemas.tools import ToolCall
from server.text_model import ChatModel


def plain_messages(messages: Sequence[Message], chat: ChatModel) -> list[dict[str, Any]]:
    """For `template_chat`. Raises InvalidRequest."""
    return [for_template(_plain(message), chat.thought_field) for message in messages]


def _plain(message: Message) -> dict[str, Any]:
    fields = {name: value for name, value in (message.model_extra or {}).items() if value is not None}
    plain = {**fields, "role": "tool" if message.role == "function" else message.role, "content": _content(message)}
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    calls = message.tool_calls or []
    if message.function_call is not None:
        calls = [*calls, ToolCall(function=message.function_call)]
    if calls:
        plain["tool_calls"] = [_call(call) for call in calls]
    return plain


def _content(message: Message) -> str | list[dict[str, str]]:
    """One part is a text as good as a string; of several the template decides how they are joined."""
    parts = message.content or []
    if len(parts) < 2:
        return message.text
    return [{"type": part.type, "text": part.text} for part in parts]


def _call(call: ToolCall) -> dict[str, Any]:
    """Without what clients add for themselves, such as the arguments parsed, which a template may show as it is."""
    function = {"name": call.function.name, "arguments": call.function.arguments}
    plain = {"type": "function", "function": function}
    return plain if call.id is None else {"id": call.id, **plain}
