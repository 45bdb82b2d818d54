"""template_chat: earlier calls, results and the tools themselves in the form that a chat template takes."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import InvalidRequest
from server.tools.format import ToolFormat, WrittenCall
from server.tools.formats import generic
from server.tools.json_scanner import json_of

Message = dict[str, Any]

GENERIC: ToolFormat = generic.FORMAT
_INSTRUCTION = """\
You can call functions. These are their signatures, one in each line, with JSON schemas of their arguments:
<tools>
{tools}
</tools>

To call a function, answer with its name and its arguments in JSON, between tags as here, once for each call:
<tool_call>
{{"name": "the function's name", "arguments": {{"an argument's name": "its value"}}}}
</tool_call>

The result follows between <tool_response> and </tool_response>. Call a function only if it helps to answer."""


@dataclass(frozen=True, slots=True)
class TemplateChat:
    """What ChatTemplate.render is given."""

    messages: list[Message]
    tools: list[Mapping[str, Any]] | None


def template_chat(
    found: ToolFormat | None, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> TemplateChat:
    """The chat with calls as the template takes them. found: None means the generic format.

    messages and tools are in OpenAI's form, and left unchanged. Raises InvalidRequest if arguments are no JSON object
    where the template needs one.
    """
    tool_format = found or GENERIC
    if tool_format.name == GENERIC.name:
        return TemplateChat(_plain_messages(messages, tools), None)
    changed = [_with_calls(tool_format, message, index) for index, message in enumerate(messages)]
    return TemplateChat(changed, list(tools) or None)


def _with_calls(tool_format: ToolFormat, message: Mapping[str, Any], index: int) -> Message:
    changed = dict(message)
    if tool_format.call_id_length is not None and isinstance(changed.get("tool_call_id"), str):
        changed["tool_call_id"] = _fitting_id(changed["tool_call_id"], tool_format.call_id_length)
    if not changed.get("tool_calls"):
        changed.pop("tool_calls", None)
        return changed
    if not tool_format.renders_calls:
        return _with_written_calls(tool_format, changed)
    changed["tool_calls"] = [
        _template_call(tool_format, call, f"messages[{index}].tool_calls[{position}].function.arguments")
        for position, call in enumerate(changed["tool_calls"])
    ]
    return changed


def _template_call(tool_format: ToolFormat, call: Mapping[str, Any], param: str) -> Message:
    function = dict(call["function"])
    arguments = function.get("arguments") or "{}"
    if tool_format.takes_object_arguments:
        function["arguments"] = _object(arguments, param)
    else:
        function["arguments"] = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    changed = {**call, "function": function}
    if tool_format.call_id_length is not None:
        changed["id"] = _fitting_id(str(call.get("id", "")), tool_format.call_id_length)
    return changed


def _object(arguments: object, param: str) -> Mapping[str, Any]:
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            arguments = None
    if not isinstance(arguments, Mapping):
        raise InvalidRequest(f"{param} is no JSON object, which this model's chat template needs", param="messages")
    return arguments


def _fitting_id(call_id: str, length: int) -> str:
    """The id, or one of the length that the template demands; the same for the same id."""
    if re.fullmatch(f"[a-zA-Z0-9]{{{length}}}", call_id):
        return call_id
    return hashlib.blake2b(call_id.encode(errors="replace"), digest_size=length).hexdigest()[:length]


def _with_written_calls(tool_format: ToolFormat, message: Mapping[str, Any]) -> Message:
    """The message with its calls as text behind its content."""
    changed = dict(message)
    text = tool_format.write([_written_call(call["function"]) for call in changed.pop("tool_calls")])
    content = changed.get("content")
    if isinstance(content, list):
        changed["content"] = [*content, {"type": "text", "text": text}]
    else:
        changed["content"] = f"{content}\n{text}" if content else text
    return changed


def _written_call(function: Mapping[str, Any]) -> WrittenCall:
    arguments = function.get("arguments") or "{}"
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return WrittenCall(function["name"], arguments if json_of(arguments) else json.dumps(arguments))


def _plain_messages(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Messages of the roles that every template knows, with an instruction how to call the tools."""
    plain: list[Message] = []
    for message in messages:
        if message["role"] == "tool":
            _add_user_text(plain, f"<tool_response>\n{_text_of(message.get('content'))}\n</tool_response>")
        elif message.get("tool_calls"):
            plain.append(_with_written_calls(GENERIC, message))
        elif message["role"] == "user" and plain and plain[-1].get("role") == "user" and _follows_result(plain[-1]):
            _add_user_text(plain, _text_of(message.get("content")))
        else:
            plain.append({key: value for key, value in message.items() if key != "tool_calls"})
    return _with_instruction(plain, tools) if tools else plain


def _add_user_text(plain: list[Message], text: str) -> None:
    """Appends to the user's last message: many templates want users and assistants to take turns."""
    if plain and plain[-1]["role"] == "user":
        plain[-1] = {**plain[-1], "content": f"{_text_of(plain[-1].get('content'))}\n{text}"}
    else:
        plain.append({"role": "user", "content": text})


def _follows_result(message: Mapping[str, Any]) -> bool:
    return str(message.get("content")).endswith("</tool_response>")


def _text_of(content: object) -> str:
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return "" if content is None else str(content)


def _with_instruction(messages: list[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    shown = "\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
    instruction = _INSTRUCTION.format(tools=shown)
    if messages and messages[0]["role"] in ("system", "developer"):
        first = messages[0]
        return [{**first, "content": f"{_text_of(first.get('content'))}\n\n{instruction}"}, *messages[1:]]
    return [{"role": "system", "content": instruction}, *messages]
