"""messages_of_items: turns the items of a request into the messages of a chat."""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import InvalidRequest
from server.chat import content
from server.chat.content import ChatMessage, ContentPart, EarlierCall, text_parts
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
    TextContentPart,
)

_Parts = Sequence[TextContentPart | RefusalPart]
_THOUGHT = "reasoning_content"


@dataclass(slots=True)
class _Turn:
    """One message of the assistant, made of all its items between two other messages."""

    message: ChatMessage
    has_content: bool = False

    def takes_text(self) -> bool:
        """Whether a reasoning or message item that comes next is added to this turn. It starts a new turn if this turn
        has text and no calls."""
        return bool(self.message.calls) or not self.has_content

    def add_thought(self, thought: str) -> None:
        fields = self.message.fields
        fields[_THOUGHT] = "\n".join(filter(None, [fields.get(_THOUGHT), thought]))

    def add_content(self, parts: _Parts) -> None:
        self.has_content = True
        self.message.parts += _texts(parts)


def messages_of_items(
    items: Sequence[InputItem],
    *,
    num_stored: int = 0,
    left_out: frozenset[int] = frozenset(),
    instructions: str | None = None,
) -> tuple[list[ChatMessage], list[str]]:
    """Return the messages, and the paths of items and fields that are ignored.

    num_stored: how many of the items come from earlier responses. left_out: positions of items to leave out.

    Raises InvalidRequest for an item_reference, and for the output of a call that is not among the items before it.
    """
    chat: list[ChatMessage] = []
    ignored: list[str] = []
    if instructions:
        chat.append(ChatMessage("system", text_parts(instructions), path="instructions"))
    called: set[str] = set()
    turn: _Turn | None = None
    for index, item in enumerate(items):
        if index in left_out:
            continue
        path = "input" if index < num_stored else f"input[{index - num_stored}]"
        ignored += [f"{path}.{name}" for name in item.extra]
        match item:
            case HostedItem():
                ignored.append(path)
            case ItemReference(id=item_id):
                raise InvalidRequest(
                    f"{path} refers to the item {quote(item_id)}, which is not stored here; give the item itself",
                    param=path,
                )
            case ReasoningItem():
                thought = _thought(item)
                if thought is None:
                    ignored.append(path)
                else:
                    turn = _text_turn(turn, chat, path)
                    turn.add_thought(thought)
            case MessageItem(role="assistant"):
                turn = _text_turn(turn, chat, path)
                turn.add_content(item.content)
            case FunctionCallItem() | CustomToolCallItem():
                turn = turn or _new_turn(chat, path)
                turn.message.calls.append(_call(item, path))
                called.add(item.call_id)
            case FunctionCallOutputItem() | CustomToolCallOutputItem():
                if item.call_id not in called:
                    raise _without_call(item, path, is_stored=index < num_stored)
                turn = None
                chat.append(ChatMessage("tool", _texts(item.output), tool_call_id=item.call_id, path=path))
            case MessageItem(role=role):
                turn = None
                chat.append(ChatMessage(role, _texts(item.content), path=path))
    return chat, ignored


def _without_call(
    item: FunctionCallOutputItem | CustomToolCallOutputItem, path: str, *, is_stored: bool
) -> InvalidRequest:
    """Return the error for an output whose call is missing. is_stored: whether the output is in a stored conversation,
    from which a client can have deleted the call."""
    missing = f"{quote(item.call_id)}, and no item before it is a call of that id"
    if is_stored:
        return InvalidRequest(
            f"the conversation's item {quote(item.id)} has the call_id {missing}; delete it from the conversation",
            param="conversation",
        )
    return InvalidRequest(f"{path}.call_id is {missing}; give the call too", param=f"{path}.call_id")


def _text_turn(turn: _Turn | None, chat: list[ChatMessage], path: str) -> _Turn:
    return turn if turn is not None and turn.takes_text() else _new_turn(chat, path)


def _new_turn(chat: list[ChatMessage], path: str) -> _Turn:
    chat.append(ChatMessage("assistant", path=path))
    return _Turn(chat[-1])


def _texts(parts: _Parts) -> list[ContentPart]:
    return [content.TextPart(part.text) for part in parts]


def _thought(item: ReasoningItem) -> str | None:
    """Return the item's thought, or else its summary if another server encoded the thought; None without either."""
    if item.content:
        return "".join(part.text for part in item.content)
    if item.encrypted_content and (decoded := decode_thought(item.encrypted_content)) is not None:
        return decoded
    return "\n".join(part.text for part in item.summary or []) or None


def _call(item: FunctionCallItem | CustomToolCallItem, path: str) -> EarlierCall:
    arguments = item.arguments if isinstance(item, FunctionCallItem) else arguments_of(item.input)
    return EarlierCall(chat_name(item.name, item.namespace), arguments, item.call_id, path)
