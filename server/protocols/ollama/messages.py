"""messages_with_ids: turns Ollama's messages into a chat's messages."""

from collections.abc import Sequence
from typing import get_args

import msgspec

from engine.errors import InvalidRequest
from server.chat.content import ChatMessage, EarlierCall, Role, text_parts
from server.schemas.base import quote
from server.schemas.ollama import OllamaMessage

_ROLES: dict[str, Role] = {**{role: role for role in get_args(Role)}, "function": "tool"}


def messages_with_ids(messages: Sequence[OllamaMessage]) -> list[ChatMessage]:
    """Return the chat's messages. A call without an id gets one. A tool's result gets the id of the call that it
    answers: the first unanswered call of its tool, or the first unanswered call if the result does not name its tool.

    Raises InvalidRequest for an unknown role.
    """
    chat: list[ChatMessage] = []
    pending: list[tuple[str | None, str]] = []  # id and tool of each call without a result, in order
    for index, given in enumerate(messages):
        message = ChatMessage(_role(given, index), text_parts(given.content or ""), fields=_fields(given))
        message.calls = _calls(given, index)
        pending += [(call.id, call.name) for call in message.calls]
        message.tool_call_id = given.tool_call_id or _answered(message, given.tool_name, pending)
        if message.tool_call_id is not None:
            pending = [call for call in pending if call[0] != message.tool_call_id]
        chat.append(message)
    return chat


def _role(given: OllamaMessage, index: int) -> Role:
    role = _ROLES.get(given.role.lower())
    if role is None:
        path = f"messages[{index}].role"
        known = ", ".join(map(repr, [*_ROLES][:-1])) + f" or {[*_ROLES][-1]!r}"
        raise InvalidRequest(f"{path} is {quote(given.role.lower())}; it must be {known}", param=path)
    return role


def _fields(given: OllamaMessage) -> dict[str, object]:
    fields = {name: value for name, value in given.extra.items() if value is not None}
    if given.thinking:
        fields["thinking"] = given.thinking
    if given.tool_name is not None:
        fields["name"] = given.tool_name
    return fields


def _calls(given: OllamaMessage, index: int) -> list[EarlierCall]:
    return [
        EarlierCall(
            call.function.name,
            msgspec.json.encode(call.function.arguments or {}).decode(),
            call.id or f"call_{index}_{position}",
        )
        for position, call in enumerate(given.tool_calls or [])
    ]


def _answered(message: ChatMessage, tool: str | None, pending: Sequence[tuple[str | None, str]]) -> str | None:
    if message.role != "tool":
        return None
    return next((call_id for call_id, name in pending if tool in (None, name)), None)
