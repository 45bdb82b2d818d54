"""template_chat: earlier calls, results and the tools themselves in the form that a chat template takes."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from server.tools.format import ToolFormat
from server.tools.generic_history import (
    GENERIC,
    Message,
    arguments_object,
    call_path,
    plain_messages,
    with_written_calls,
)


@dataclass(frozen=True, slots=True)
class TemplateChat:
    """What ChatTemplate.render is given."""

    messages: list[Message]
    tools: list[Mapping[str, Any]] | None


def template_chat(
    found: ToolFormat | None,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    *,
    has_system_role: bool = True,
) -> TemplateChat:
    """The chat with calls as the template takes them. found: None means the generic format.

    messages and tools are in OpenAI's form, and left unchanged. has_system_role: whether the template takes a system
    message, for the generic format's instruction. Raises InvalidRequest if arguments are no JSON object where the
    template needs one.
    """
    tool_format = found or GENERIC
    if tool_format.name == GENERIC.name:
        return TemplateChat(plain_messages(messages, tools, has_system_role=has_system_role), None)
    changed = [_with_calls(tool_format, message, index) for index, message in enumerate(messages)]
    if not tool_format.takes_several_calls:
        changed = _one_call_each(changed)
    return TemplateChat(changed, list(tools) or None)


def _with_calls(tool_format: ToolFormat, message: Mapping[str, Any], index: int) -> Message:
    changed = dict(message)
    if tool_format.call_id_length is not None and isinstance(changed.get("tool_call_id"), str):
        changed["tool_call_id"] = _fitting_id(changed["tool_call_id"], tool_format.call_id_length)
    if not changed.get("tool_calls"):
        changed.pop("tool_calls", None)
        return changed
    if not tool_format.renders_calls:
        return with_written_calls(tool_format, changed, index)
    changed["tool_calls"] = [
        _template_call(tool_format, call, call_path(index, position))
        for position, call in enumerate(changed["tool_calls"])
    ]
    return changed


def _template_call(tool_format: ToolFormat, call: Mapping[str, Any], path: str) -> Message:
    function = dict(call["function"])
    arguments = function.get("arguments") or "{}"
    if tool_format.takes_object_arguments:
        function["arguments"] = arguments_object(arguments, path)
    else:
        function["arguments"] = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    changed = {**call, "function": function}
    if tool_format.call_id_length is not None:
        changed["id"] = _fitting_id(str(call.get("id", "")), tool_format.call_id_length)
    return changed


def _fitting_id(call_id: str, length: int) -> str:
    """The id, or one of the length that the template demands; the same for the same id."""
    if re.fullmatch(f"[a-zA-Z0-9]{{{length}}}", call_id):
        return call_id
    return hashlib.blake2b(call_id.encode(errors="replace"), digest_size=length).hexdigest()[:length]


def _one_call_each(messages: Sequence[Message]) -> list[Message]:
    """The messages, those with several calls as several messages, each followed by its own call's results."""
    changed: list[Message] = []
    results: list[Message] = []  # of the calls that come next, in reverse order of the messages
    for message in reversed(messages):
        if message["role"] == "tool":
            results.append(message)
            continue
        calls = message.get("tool_calls") or [None]
        for position, call in reversed(list(enumerate(calls))):
            # The first call also gets what belongs to none.
            own = results if position == 0 else [each for each in results if each.get("tool_call_id") == call.get("id")]
            changed += own
            results = [each for each in results if each not in own]
            changed.append(message if len(calls) == 1 else _with_one_call(message, call, is_first=position == 0))
    return [*changed, *results][::-1]


def _with_one_call(message: Message, call: Message, *, is_first: bool) -> Message:
    return {**message, "content": message.get("content") if is_first else "", "tool_calls": [call]}
