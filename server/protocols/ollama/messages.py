"""Ollama's messages in the form of OpenAI's chats."""

from collections.abc import Sequence
from typing import Any

import msgspec

from server.schemas.ollama import OllamaMessage


def chat_messages(messages: Sequence[OllamaMessage]) -> list[dict[str, Any]]:
    """Calls get ids where they have none, and a tool's result the id of the call that it answers: of its tool's first
    one without a result, or of the first of all where the result does not name its tool."""
    chat: list[dict[str, Any]] = []
    unanswered: list[tuple[str, str]] = []  # id and tool of each call, in order
    for index, message in enumerate(messages):
        fields: dict[str, Any] = {**message.extra, "role": message.role.lower(), "content": message.content or ""}
        if message.thinking:
            fields["thinking"] = message.thinking
        if message.tool_calls:
            fields["tool_calls"] = calls = _calls(message, index)
            unanswered += [(call["id"], call["function"]["name"]) for call in calls]
        if message.tool_name is not None:
            fields["name"] = message.tool_name
        if (answered := message.tool_call_id or _answered(fields, unanswered)) is not None:
            fields["tool_call_id"] = answered
            unanswered = [call for call in unanswered if call[0] != answered]
        chat.append(fields)
    return chat


def _calls(message: OllamaMessage, index: int) -> list[dict[str, Any]]:
    return [
        {
            "id": call.id or f"call_{index}_{position}",
            "type": "function",
            "function": {
                "name": call.function.name,
                "arguments": msgspec.json.encode(call.function.arguments or {}).decode(),
            },
        }
        for position, call in enumerate(message.tool_calls or [])
    ]


def _answered(fields: dict[str, Any], unanswered: list[tuple[str, str]]) -> str | None:
    if fields["role"] != "tool":
        return None
    tool = fields.get("name")
    return next((call_id for call_id, name in unanswered if tool in (None, name)), None)
