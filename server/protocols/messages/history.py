"""chat_messages: Anthropic's messages of content blocks as a chat's messages."""

import json
from collections.abc import Sequence
from typing import Any

from engine.errors import InvalidRequest
from server.schemas.messages import (
    ContentBlock,
    Message,
    MessagesPrompt,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)

ChatMessage = dict[str, Any]

# Anthropic's command-line agent says in a first block what its servers should bill. It is no instruction, and it
# changes from request to request, so no cached prompt would ever be found again.
BILLING_MARK = "x-anthropic-billing-header:"

_ALLOWED = {
    "user": ("text", "tool_result"),
    "assistant": ("text", "tool_use", "thinking", "redacted_thinking"),
    "system": ("text",),
}


def chat_messages(body: MessagesPrompt, *, takes_late_system: bool) -> tuple[list[ChatMessage], list[str]]:
    """The chat's messages, neighbors of one role as one, and the paths of what is not in them.

    takes_late_system: whether the template shows a system's message after the first; else it is given as the user's.
    Raises InvalidRequest for a block in a message of the wrong role, a user's message without blocks, and calls at the
    end.
    """
    ignored = [f"system[{i}]" for i, block in enumerate(body.system or []) if is_billing(block)]
    system = [_part(block) for block in body.system or [] if not is_billing(block)]
    chat: list[ChatMessage] = [{"role": "system", "content": system}] if system else []
    called: dict[str, str] = {}  # names of tools by the ids of their calls
    for index, message in enumerate(body.messages):
        _check_roles(message, index)
        match message.role:
            case "assistant":
                called |= {block.id: block.name for block in message.content if isinstance(block, ToolUseBlock)}
                _add(chat, _assistant(message))
            case "user":
                if not message.content:
                    path = f"messages[{index}].content"
                    raise InvalidRequest(
                        f"{path} has no blocks; give at least one, or leave out the message", param=path
                    )
                chat += [_result(block, called) for block in message.content if isinstance(block, ToolResultBlock)]
                if texts := _texts(message.content):
                    _add(chat, {"role": "user", "content": texts})
            case "system":
                is_late = any(each["role"] != "system" for each in chat)
                _add(
                    chat,
                    {
                        "role": "user" if is_late and not takes_late_system else "system",
                        "content": _texts(message.content),
                    },
                )
    if chat and chat[-1].get("tool_calls"):
        raise InvalidRequest(
            "messages ends with calls of tools; add a user's message with their tool_result blocks", param="messages"
        )
    return chat, ignored


def is_billing(block: TextBlock) -> bool:
    return block.text.startswith(BILLING_MARK)


def _check_roles(message: Message, index: int) -> None:
    allowed = _ALLOWED[message.role]
    for position, block in enumerate(message.content):
        if block.type not in allowed:
            path = f"messages[{index}].content[{position}]"
            raise InvalidRequest(
                f"{path} is a block of type {block.type} in a message of role {message.role}, which takes "
                f"{' and '.join(allowed)}; move it",
                param=path,
            )


def _assistant(message: Message) -> ChatMessage:
    thoughts = [block.thinking for block in message.content if isinstance(block, ThinkingBlock) and block.thinking]
    calls = [_call(block) for block in message.content if isinstance(block, ToolUseBlock)]
    chat: ChatMessage = {"role": "assistant", "content": _texts(message.content)}
    if thoughts:
        chat["reasoning_content"] = "\n".join(thoughts)
    if calls:
        chat["tool_calls"] = calls
    return chat


def _call(block: ToolUseBlock) -> dict[str, Any]:
    arguments = json.dumps(block.input, ensure_ascii=False)
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": arguments}}


def _result(block: ToolResultBlock, called: dict[str, str]) -> ChatMessage:
    """Templates have no field for a failure, so the text says it."""
    content = [_part(part) for part in block.content or []]
    if block.is_error:
        content = [{"type": "text", "text": "Error:"}, *content]
    message: ChatMessage = {"role": "tool", "tool_call_id": block.tool_use_id, "content": content}
    if block.tool_use_id in called:
        message["name"] = called[block.tool_use_id]
    return message


def _texts(content: Sequence[ContentBlock]) -> list[dict[str, str]]:
    return [_part(block) for block in content if isinstance(block, TextBlock)]


def _part(block: TextBlock) -> dict[str, str]:
    return {"type": "text", "text": block.text}


def _add(chat: list[ChatMessage], message: ChatMessage) -> None:
    """Append a message, or what it has to the last one's where both are of one role."""
    last = chat[-1] if chat else {}
    if last.get("role") != message["role"]:
        chat.append(message)
        return
    last["content"] = [*last["content"], *message["content"]]
    if calls := [*last.get("tool_calls", []), *message.get("tool_calls", [])]:
        last["tool_calls"] = calls
    if thoughts := [each["reasoning_content"] for each in (last, message) if "reasoning_content" in each]:
        last["reasoning_content"] = "\n".join(thoughts)
