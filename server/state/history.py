"""prompt_items: a request's items, preceded by the stored items of the response or conversation that it continues."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import InvalidRequest
from server.protocols.responses.stored import input_objects, items_of
from server.schemas.base import quote
from server.schemas.response_items import InputItem, ItemReference
from server.schemas.responses import PromptFields
from server.state.records import (
    ITEM,
    PREVIOUS,
    RESPONSE,
    RUNNING,
    find_conversation,
    no_item,
)
from server.store.entries import Entries, Entry, Item

_NO_TURN = ("failed", "cancelled")


@dataclass(frozen=True, slots=True)
class PromptItems:
    """The items that a request's prompt is made from. items: all items; the first `num_stored` are from
    earlier requests. given: the request's own items, in the form to store."""

    items: list[InputItem]
    num_stored: int
    given: list[Item]
    conversation_id: str | None


async def prompt_items(body: PromptFields, store: Entries, owner: str) -> PromptItems:
    """Return a request's items. Raises NotStored, and InvalidRequest if the previous response cannot be continued."""
    conversation_id = _conversation_id(body.conversation)
    stored: list[Item] = []
    if body.previous_response_id is not None:
        if conversation_id is not None:
            raise InvalidRequest.of("previous_response_id", "and conversation are both given; give one of them")
        stored = await _items_before(body.previous_response_id, store, owner)
    elif conversation_id is not None:
        entry = await find_conversation(store, owner, conversation_id, param="conversation")
        stored = await store.items(entry.id, ITEM)
    given = await resolved(body.input or [], store, owner, "input")
    items = [*items_of(stored), *given] if stored else list(given)
    return PromptItems(items, len(stored), input_objects(given), conversation_id)


async def resolved(items: Sequence[InputItem], store: Entries, owner: str, path: str) -> list[InputItem]:
    """Return items with references replaced by stored items. path: path of the items in the body. Raises NotStored."""
    found: list[InputItem] = []
    for index, item in enumerate(items):
        if isinstance(item, ItemReference):
            stored = await store.find_item(item.id, owner)
            if stored is None:
                raise no_item(item.id, param=f"{path}[{index}]")
            found += items_of([stored])
        else:
            found.append(item)
    return found


async def used_items(entry: Entry, store: Entries) -> list[Item]:
    """Return the input of a stored response: the items of earlier responses that are still stored, then its own."""
    chain, _ = await store.chain(RESPONSE, entry.id, entry.owner, PREVIOUS)
    items: list[Item] = []
    for each in chain:
        items += await store.items(each.id, *(() if each.id != entry.id else ("input",)))
    return items


async def _items_before(response_id: str, store: Entries, owner: str) -> list[Item]:
    chain, missing = await store.chain(RESPONSE, response_id, owner, PREVIOUS)
    if missing is not None:
        reason = "" if missing == response_id else f" It continues '{response_id[:80]}', which needs it."
        raise InvalidRequest(
            f"Previous response with id '{missing[:80]}' not found.{reason}",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    last = chain[-1]
    if last.state in RUNNING:
        raise InvalidRequest(
            f"the previous response {quote(response_id)} is {last.state}; wait until it has ended",
            param="previous_response_id",
        )
    if last.state in _NO_TURN:
        raise InvalidRequest(
            f"the previous response {quote(response_id)} is {last.state}; continue the one before it",
            param="previous_response_id",
        )
    if (conversation := chain[0].body.get("conversation")) is not None:
        raise InvalidRequest(
            f"the previous response belongs to a conversation; give conversation: {quote(conversation['id'])} instead",
            param="previous_response_id",
        )
    return [item for each in chain for item in await store.items(each.id)]


def _conversation_id(conversation: str | dict[str, Any] | None) -> str | None:
    if isinstance(conversation, dict):
        conversation = conversation.get("id")
        if not isinstance(conversation, str):
            raise InvalidRequest.of("conversation.id", "is missing; it must be a string")
    return conversation
