"""Chats in the generic format: an instruction lists the tools, and calls and results are text of messages that every
template can render."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from engine.errors import InvalidRequest
from server.schemas.strict_json import nesting_depth
from server.text.chat_templates.message_content import text_of
from server.tools.format import ToolFormat, WrittenCall
from server.tools.formats import generic

Message = dict[str, Any]

GENERIC: ToolFormat = generic.FORMAT
_MAX_DEPTH = 100  # of arguments: formats write them recursively
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


def generic_messages(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], *, has_system_role: bool
) -> list[Message]:
    """Convert a chat to roles that every template knows, with an instruction that explains the tools and calls."""
    plain: list[Message] = []
    for index, message in enumerate(messages):
        if message["role"] == "tool":
            _add_user_text(plain, f"<tool_response>\n{text_of(message.get('content'))}\n</tool_response>")
        elif message.get("tool_calls"):
            plain.append(with_written_calls(GENERIC, message, index))
        elif message["role"] == "user" and plain and plain[-1].get("role") == "user" and _follows_result(plain[-1]):
            _add_user_text(plain, text_of(message.get("content")))
        else:
            plain.append({key: value for key, value in message.items() if key != "tool_calls"})
    return _with_instruction(plain, tools, has_system_role=has_system_role) if tools else plain


def _add_user_text(plain: list[Message], text: str) -> None:
    """Append the text to the user's last message, since many templates require that users and assistants alternate."""
    if plain and plain[-1]["role"] == "user":
        plain[-1] = {**plain[-1], "content": f"{text_of(plain[-1].get('content'))}\n{text}"}
    else:
        plain.append({"role": "user", "content": text})


def _follows_result(message: Mapping[str, Any]) -> bool:
    return str(message.get("content")).endswith("</tool_response>")


def _with_instruction(
    messages: list[Message], tools: Sequence[Mapping[str, Any]], *, has_system_role: bool
) -> list[Message]:
    shown = "\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
    instruction = _INSTRUCTION.format(tools=shown)
    if messages and messages[0]["role"] in ("system", "developer"):
        first = messages[0]
        return [{**first, "content": f"{text_of(first.get('content'))}\n\n{instruction}"}, *messages[1:]]
    if has_system_role:
        return [{"role": "system", "content": instruction}, *messages]
    if messages and messages[0]["role"] == "user":
        return [{**messages[0], "content": f"{instruction}\n\n{text_of(messages[0].get('content'))}"}, *messages[1:]]
    return [{"role": "user", "content": instruction}, *messages]


def with_written_calls(tool_format: ToolFormat, message: Mapping[str, Any], index: int) -> Message:
    """Return the message with its tool calls written as text after its content.

    index: the message's position in the chat. Raises InvalidRequest if a call's arguments are not a JSON object.
    """
    changed = dict(message)
    calls = []
    for position, call in enumerate(changed.pop("tool_calls")):
        function = call["function"]
        arguments = function.get("arguments") or "{}"
        value = arguments_object(arguments, call_path(index, position))
        text = arguments if isinstance(arguments, str) else json.dumps(value, ensure_ascii=False)
        calls.append(WrittenCall(function["name"], text, str(call.get("id", ""))))
    written = tool_format.write(calls)
    content = changed.get("content")
    if isinstance(content, list):
        changed["content"] = [*content, {"type": "text", "text": written}]
    else:
        changed["content"] = f"{content}\n{written}" if content else written
    return changed


def call_path(index: int, position: int) -> str:
    """Return the path, for errors, of the arguments of call number `position` in message number `index`."""
    return f"messages[{index}].tool_calls[{position}].function.arguments"


def arguments_object(arguments: object, path: str) -> Mapping[str, Any]:
    """Parse the arguments of an earlier call, which a client sends as JSON text or as an object.

    Raises InvalidRequest if they are not an object, or nested too deeply.
    """
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
            depth = nesting_depth(arguments)
        except (ValueError, RecursionError):
            arguments = None
        else:
            if depth > _MAX_DEPTH:
                raise InvalidRequest(f"{path} is nested more than {_MAX_DEPTH} levels deep; send less", param=path)
    if not isinstance(arguments, Mapping):
        raise InvalidRequest(
            f"{path} is not a JSON object, which the model's chat template requires; send the arguments of the model's "
            "call, or {}",
            param=path,
        )
    return arguments
