"""chat_messages: the items of a request as the messages of a chat."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.errors import InvalidRequest
from server.protocols.responses.custom_input import arguments_of
from server.protocols.responses.thoughts import decode_thought
from server.protocols.responses.tools import chat_name
from server.schemas.base import quote
from server.schemas.response_items import (
    CustomToolCallItem,
    CustomToolCallOutputItem,
    FunctionCallItem,
    FunctionCallOutputItem,
    HostedItem,
    InputItem,
    ItemReference,
    MessageItem,
    ReasoningItem,
    RefusalPart,
    TextPart,
)

_Parts = Sequence[TextPart | RefusalPart]


@dataclass(slots=True)
class ChatMessages:
    """names: paths in the chat and what they are in the request. ignored: items, by their paths, that the model is not
    shown."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)

    def add(self, message: dict[str, Any], path: str) -> dict[str, Any]:
        self.names[f"messages[{len(self.messages)}]"] = path
        self.messages.append(message)
        return message


@dataclass(slots=True)
class _Turn:
    """What the assistant said and did before anybody answered: one message of a chat, of any number of items."""

    message: dict[str, Any]

    def takes_thought(self) -> bool:
        """A thought begins a new answer, unless calls are still being made."""
        return "tool_calls" in self.message or "content" not in self.message

    def takes_content(self) -> bool:
        return "content" not in self.message or "tool_calls" in self.message


def chat_messages(
    items: Sequence[InputItem],
    *,
    num_stored: int = 0,
    left_out: frozenset[int] = frozenset(),
    instructions: str | None = None,
) -> ChatMessages:
    """num_stored: of the items, those that come from an earlier response and not from the request. left_out: positions
    of items that are passed over.

    Raises InvalidRequest for a reference, and for an output of a call that is not among the items before it.
    """
    result = ChatMessages()
    if instructions:
        result.add({"role": "system", "content": instructions}, "instructions")
    called: set[str] = set()
    turn: _Turn | None = None
    for index, item in enumerate(items):
        if index in left_out:
            continue
        path = "input" if index < num_stored else f"input[{index - num_stored}]"
        result.ignored += [f"{path}.{name}" for name in item.extra]
        match item:
            case HostedItem():
                result.ignored.append(path)
            case ItemReference(id=item_id):
                raise InvalidRequest(
                    f"{path} refers to the item {quote(item_id)}, which is not stored here; give the item itself",
                    param=path,
                )
            case ReasoningItem():
                thought = _thought(item)
                if thought is None:
                    result.ignored.append(path)
                else:
                    turn = _continued(turn, result, path, turn is not None and turn.takes_thought())
                    _join(turn.message, "reasoning_content", thought)
            case MessageItem(role="assistant"):
                turn = _continued(turn, result, path, turn is not None and turn.takes_content())
                _add_content(turn.message, item.content)
            case FunctionCallItem() | CustomToolCallItem():
                turn = _continued(turn, result, path, turn is not None)
                calls = turn.message.setdefault("tool_calls", [])
                result.names[f"messages[{len(result.messages) - 1}].tool_calls[{len(calls)}].function"] = path
                calls.append(_call(item))
                called.add(item.call_id)
            case FunctionCallOutputItem() | CustomToolCallOutputItem():
                if item.call_id not in called:
                    raise _without_call(item, path, is_stored=index < num_stored)
                turn = None
                result.add({"role": "tool", "tool_call_id": item.call_id, "content": _texts(item.output)}, path)
            case MessageItem():
                turn = None
                result.add({"role": item.role, "content": _texts(item.content)}, path)
    return result


def _without_call(
    item: FunctionCallOutputItem | CustomToolCallOutputItem, path: str, *, is_stored: bool
) -> InvalidRequest:
    """Only a conversation can have a stored output without its call: any item may be added to it or deleted."""
    missing = f"{quote(item.call_id)}, and no item before it is a call of that id"
    if is_stored:
        return InvalidRequest(
            f"the conversation's item {quote(item.id)} has the call_id {missing}; delete it from the conversation",
            param="conversation",
        )
    return InvalidRequest(f"{path}.call_id is {missing}; give the call too", param=f"{path}.call_id")


def _continued(turn: _Turn | None, result: ChatMessages, path: str, fits: bool) -> _Turn:
    """The turn, or a new one where what comes does not fit into it."""
    if turn is not None and fits:
        return turn
    return _Turn(result.add({"role": "assistant"}, path))


def _add_content(message: dict[str, Any], parts: _Parts) -> None:
    message["content"] = [*message.get("content", []), *_texts(parts)]


def _join(message: dict[str, Any], name: str, text: str) -> None:
    message[name] = "\n".join(filter(None, [message.get(name), text]))


def _texts(parts: _Parts) -> list[dict[str, str]]:
    return [{"type": "text", "text": part.text} for part in parts]


def _thought(item: ReasoningItem) -> str | None:
    """The thought itself, else what another server says of it; None where there is nothing that can be read."""
    if item.content:
        return "".join(part.text for part in item.content)
    if item.encrypted_content and (decoded := decode_thought(item.encrypted_content)) is not None:
        return decoded
    return "\n".join(part.text for part in item.summary or []) or None


def _call(item: FunctionCallItem | CustomToolCallItem) -> dict[str, Any]:
    arguments = item.arguments if isinstance(item, FunctionCallItem) else arguments_of(item.input)
    function = {"name": chat_name(item.name, item.namespace), "arguments": arguments}
    return {"id": item.call_id, "type": "function", "function": function}
