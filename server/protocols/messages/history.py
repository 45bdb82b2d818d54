"""messages_of_blocks: turns Anthropic's messages of content blocks into a chat's messages."""

import json
from collections.abc import Sequence
from typing import Any

from engine.errors import InvalidRequest
from server.chat.content import ChatMessage, ContentPart, EarlierCall, Role, TextPart
from server.schemas.messages import (
    ContentBlock,
    MessageParam,
    MessagesPrompt,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)

_THOUGHT = "reasoning_content"

# A first block of Anthropic's command-line agent that is for billing. It instructs nothing, and it changes with every
# request, so no prompt would be found in the prefix cache.
BILLING_MARK = "x-anthropic-billing-header:"

_ALLOWED = {
    "user": ("text", "tool_result"),
    "assistant": ("text", "tool_use", "thinking", "redacted_thinking"),
    "system": ("text",),
}


def messages_of_blocks(body: MessagesPrompt, *, takes_late_system: bool) -> tuple[list[ChatMessage], list[str]]:
    """Return the chat's messages, adjacent ones of the same role merged, and the paths of ignored blocks.

    takes_late_system: whether the template renders system messages that follow other messages; if not, these become
    user messages. Raises InvalidRequest for a block that its message's role does not allow, a user message without
    blocks, and tool calls at the end of the messages, without results.
    """
    ignored = [f"system[{i}]" for i, block in enumerate(body.system or []) if is_billing(block)]
    system = _texts([block for block in body.system or [] if not is_billing(block)])
    chat = [ChatMessage("system", system)] if system else []
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
                    _add(chat, ChatMessage("user", texts))
            case "system":
                is_late = any(each.role != "system" for each in chat)
                role: Role = "user" if is_late and not takes_late_system else "system"
                _add(chat, ChatMessage(role, _texts(message.content)))
    if chat and chat[-1].calls:
        raise InvalidRequest(
            "messages ends with calls of tools; add a user's message with their tool_result blocks", param="messages"
        )
    return chat, ignored


def is_billing(block: TextBlock) -> bool:
    return block.text.startswith(BILLING_MARK)


def _check_roles(message: MessageParam, index: int) -> None:
    allowed = _ALLOWED[message.role]
    for position, block in enumerate(message.content):
        if block.type not in allowed:
            path = f"messages[{index}].content[{position}]"
            raise InvalidRequest(
                f"{path} is a block of type {block.type} in a message of role {message.role}, which takes "
                f"{' and '.join(allowed)}; move it",
                param=path,
            )


def _assistant(message: MessageParam) -> ChatMessage:
    thoughts = [block.thinking for block in message.content if isinstance(block, ThinkingBlock) and block.thinking]
    calls = [_call(block) for block in message.content if isinstance(block, ToolUseBlock)]
    return ChatMessage("assistant", _texts(message.content), calls, fields=_thought_fields(thoughts))


def _call(block: ToolUseBlock) -> EarlierCall:
    return EarlierCall(block.name, json.dumps(block.input, ensure_ascii=False), block.id)


def _result(block: ToolResultBlock, called: dict[str, str]) -> ChatMessage:
    parts = _texts(block.content or [])
    if block.is_error:  # templates have no field for a failure
        parts = [TextPart("Error:"), *parts]
    name = called.get(block.tool_use_id)
    fields = {} if name is None else {"name": name}
    return ChatMessage("tool", parts, tool_call_id=block.tool_use_id, fields=fields)


def _texts(content: Sequence[ContentBlock]) -> list[ContentPart]:
    return [TextPart(block.text) for block in content if isinstance(block, TextBlock)]


def _thought_fields(thoughts: Sequence[str]) -> dict[str, Any]:
    return {_THOUGHT: "\n".join(thoughts)} if thoughts else {}


def _add(chat: list[ChatMessage], message: ChatMessage) -> None:
    """Append the message, or merge it into the last one if both have the same role."""
    if not chat or chat[-1].role != message.role:
        chat.append(message)
        return
    last = chat[-1]
    last.parts += message.parts
    last.calls += message.calls
    last.fields |= _thought_fields([each.fields[_THOUGHT] for each in (last, message) if _THOUGHT in each.fields])
