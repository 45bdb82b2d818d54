"""Storage records of responses and conversations: saving, finding, and conversion to API objects."""

from collections.abc import Sequence
from typing import Any

import msgspec

from engine.errors import InvalidRequest
from server.errors import NotStored
from server.protocols.responses.objects import Response
from server.schemas.base import quote
from server.schemas.conversations import ListQuery
from server.store.entries import Entries, Entry, Item

RESPONSE, CONVERSATION = "response", "conversation"
PREVIOUS = "previous_response_id"  # the field by which responses are chained
INPUT, OUTPUT = "input", "output"  # parts of a response's items
ITEM = "item"  # the part of a conversation's items

RUNNING = ("queued", "in_progress")


def no_response(response_id: str) -> NotStored:
    return NotStored(f"Response with id '{response_id[:80]}' not found.")


def no_conversation(conversation_id: str, *, param: str | None = None) -> NotStored:
    return NotStored(f"Conversation with id '{conversation_id[:80]}' not found.", param=param)


def no_item(item_id: str, *, param: str | None = None) -> NotStored:
    return NotStored(
        f"Item with id '{item_id[:80]}' not found. Items are not persisted when `store` is set to false.", param=param
    )


async def save_response(store: Entries, owner: str, response: Response, given: Sequence[Item]) -> bool:
    """Store a response and the items of its request; return False if it is too large. Raises StorageFailed."""
    body = msgspec.to_builtins(response)
    del body["output"]
    items = [(INPUT, item) for item in given] + [(OUTPUT, item) for item in msgspec.to_builtins(response.output)]
    entry = Entry(response.id, RESPONSE, owner, response.created_at, response.status, body)
    return await store.put(entry, items)


async def find_response(store: Entries, owner: str, response_id: str) -> Entry:
    """Return the owner's response. Raises NotStored."""
    entry = await store.get(RESPONSE, response_id, owner)
    if entry is None:
        raise no_response(response_id)
    return entry


async def shown_response(store: Entries, entry: Entry) -> dict[str, Any]:
    """Return the response object in the form that clients receive."""
    return {**entry.body, "output": await store.items(entry.id, OUTPUT)}


async def find_conversation(store: Entries, owner: str, conversation_id: str, *, param: str | None = None) -> Entry:
    """Return the owner's conversation. param: the body field that names it, for errors. Raises NotStored."""
    entry = await store.get(CONVERSATION, conversation_id, owner)
    if entry is None:
        raise no_conversation(conversation_id, param=param)
    return entry


def shown_conversation(entry: Entry) -> dict[str, Any]:
    return {"id": entry.id, "object": "conversation", "created_at": entry.created_s, **entry.body}


async def fail_interrupted(store: Entries) -> int:
    """Mark background responses that a previous server process did not finish as failed; return their number."""

    def failed(entry: Entry) -> Entry:
        error = {"code": "server_error", "message": "the server ended before the response did; send the request again"}
        body = {**entry.body, "status": "failed", "error": error}
        return Entry(entry.id, entry.kind, entry.owner, entry.created_s, "failed", body)

    interrupted = await store.with_states(RESPONSE, RUNNING)
    for entry in interrupted:
        await store.update(RESPONSE, entry.id, entry.owner, failed)
    return len(interrupted)


def item_list(items: Sequence[Item], query: ListQuery) -> dict[str, Any]:
    """Return the page of items that the query selects. Raises InvalidRequest if `after` is not an item's id."""
    ordered = list(items) if query.order == "asc" else list(reversed(items))
    ids = [item["id"] for item in ordered]
    if query.after is not None and query.after not in ids:
        raise InvalidRequest.of("after", f"is {quote(query.after)}; there is no such item")
    start = 0 if query.after is None else ids.index(query.after) + 1
    return whole_list(ordered[start : start + query.limit], has_more=start + query.limit < len(ordered))


def whole_list(items: Sequence[Item], *, has_more: bool = False) -> dict[str, Any]:
    return {
        "object": "list",
        "data": list(items),
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": has_more,
    }
