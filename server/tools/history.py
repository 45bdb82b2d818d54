"""template_chat: converts tools, tool calls and their results to the form that the model's chat template takes."""

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
    generic_messages,
    with_written_calls,
)


@dataclass(frozen=True, slots=True)
class TemplateChat:
    """The messages and tools to render with ChatTemplate.render."""

    messages: list[Message]
    tools: list[Mapping[str, Any]] | None


def template_chat(
    found: ToolFormat | None,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    *,
    has_system_role: bool = True,
) -> TemplateChat:
    """Convert a chat's tools and calls to the form that the template takes. found: None means the generic format.

    messages and tools are in OpenAI's form and are not changed. has_system_role: whether the template takes a system
    message, for the generic format's instruction. Raises InvalidRequest if a call's arguments are not a JSON object and
    the template needs one.
    """
    tool_format = found or GENERIC
    if tool_format.name == GENERIC.name:
        return TemplateChat(generic_messages(messages, tools, has_system_role=has_system_role), None)
    changed = [_with_calls(tool_format, message, index) for index, message in enumerate(messages)]
    if not tool_format.takes_several_calls:
        changed = _split_calls(changed)
    return TemplateChat(changed, list(tools) or None)


def _with_calls(tool_format: ToolFormat, message: Mapping[str, Any], index: int) -> Message:
    changed = dict(message)
    if tool_format.call_id_length is not None and isinstance(changed.get("tool_call_id"), str):
        changed["tool_call_id"] = _template_id(changed["tool_call_id"], tool_format.call_id_length)
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
        changed["id"] = _template_id(str(call.get("id", "")), tool_format.call_id_length)
    return changed


def _template_id(call_id: str, length: int) -> str:
    """Return the id, or a hash of it with the length that the template requires."""
    if re.fullmatch(f"[a-zA-Z0-9]{{{length}}}", call_id):
        return call_id
    return hashlib.blake2b(call_id.encode(errors="replace"), digest_size=length).hexdigest()[:length]


def _split_calls(messages: Sequence[Message]) -> list[Message]:
    """Split messages with several calls into messages with one call, each followed by the results of its call."""
    changed: list[Message] = []
    results: list[Message] = []  # results of the calls that come next, in reverse order of the messages
    for message in reversed(messages):
        if message["role"] == "tool":
            results.append(message)
            continue
        calls = message.get("tool_calls") or [None]
        for position, call in reversed(list(enumerate(calls))):
            # The first call also gets results that belong to no call.
            own = results if position == 0 else [each for each in results if each.get("tool_call_id") == call.get("id")]
            changed += own
            results = [each for each in results if each not in own]
            changed.append(message if len(calls) == 1 else _with_one_call(message, call, is_first=position == 0))
    return [*changed, *results][::-1]


def _with_one_call(message: Message, call: Message, *, is_first: bool) -> Message:
    return {**message, "content": message.get("content") if is_first else "", "tool_calls": [call]}
