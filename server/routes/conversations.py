"""/v1/conversations: stored lists of items, which responses can continue and extend."""

import time
from dataclasses import replace

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from engine.errors import InvalidRequest
from server.context import ServerContext
from server.http.body import Context, Json, ignored_body
from server.http.query import ignored_query, page_query
from server.protocols.responses.objects import new_id
from server.protocols.responses.stored import input_objects
from server.schemas.conversations import ConversationRequest, ConversationUpdate, ItemsRequest, ListQuery
from server.schemas.response_items import InputItem
from server.state.history import resolved
from server.state.records import (
    CONVERSATION,
    ITEM,
    find_conversation,
    item_list,
    no_conversation,
    no_item,
    shown_conversation,
    whole_list,
)
from server.store.entries import Entry, Item

router = APIRouter(tags=["Conversations"])


@router.post("/v1/conversations")
async def create_conversation(request: Request, context: Context, body: Json[ConversationRequest]) -> JSONResponse:
    """Create a conversation, with or without items."""
    headers = ignored_body(body, context)
    items = await _objects(body.items or [], request, context)
    entry = Entry(
        new_id("conv"), CONVERSATION, request.state.owner, int(time.time()), "", {"metadata": body.metadata or {}}
    )
    if not await context.store.put(entry, [(ITEM, item) for item in items]):
        raise InvalidRequest("the conversation is larger than all that may be stored (--store-max-bytes)")
    return JSONResponse(shown_conversation(entry), headers=headers)


@router.get("/v1/conversations/{conversation_id}")
async def get_conversation(request: Request, context: Context, conversation_id: str) -> JSONResponse:
    """Retrieve a conversation, without its items."""
    return JSONResponse(
        shown_conversation(await find_conversation(context.store, request.state.owner, conversation_id))
    )


@router.post("/v1/conversations/{conversation_id}")
async def update_conversation(
    request: Request, context: Context, conversation_id: str, body: Json[ConversationUpdate]
) -> JSONResponse:
    """Replace a conversation's metadata."""
    headers = ignored_body(body, context)

    def change(entry: Entry) -> Entry:
        return replace(entry, body={**entry.body, "metadata": body.metadata or {}})

    entry = await context.store.update(CONVERSATION, conversation_id, request.state.owner, change)
    if entry is None:
        raise no_conversation(conversation_id)
    return JSONResponse(shown_conversation(entry), headers=headers)


@router.delete("/v1/conversations/{conversation_id}")
async def delete_conversation(request: Request, context: Context, conversation_id: str) -> JSONResponse:
    """Delete a conversation and its items; responses that were made in it stay."""
    if not await context.store.delete(CONVERSATION, conversation_id, request.state.owner):
        raise no_conversation(conversation_id)
    return JSONResponse({"id": conversation_id, "object": "conversation.deleted", "deleted": True})


@router.post("/v1/conversations/{conversation_id}/items")
async def create_items(
    request: Request, context: Context, conversation_id: str, body: Json[ItemsRequest]
) -> JSONResponse:
    """Add items to the end of a conversation."""
    headers = ignored_body(body, context)
    entry = await find_conversation(context.store, request.state.owner, conversation_id)
    items = await _objects(body.items, request, context)
    if not await context.store.append_items(entry.id, ITEM, items):
        raise no_conversation(conversation_id)
    return JSONResponse(whole_list(items), headers=headers)


@router.get("/v1/conversations/{conversation_id}/items")
async def list_items(request: Request, context: Context, conversation_id: str) -> JSONResponse:
    """List a conversation's items, newest first."""
    query = page_query(request, ListQuery, "order")
    entry = await find_conversation(context.store, request.state.owner, conversation_id)
    headers = ignored_query(request, "after", "limit", "order")
    return JSONResponse(item_list(await context.store.items(entry.id), query), headers=headers)


@router.get("/v1/conversations/{conversation_id}/items/{item_id}")
async def get_item(request: Request, context: Context, conversation_id: str, item_id: str) -> JSONResponse:
    """Retrieve an item of a conversation."""
    entry = await find_conversation(context.store, request.state.owner, conversation_id)
    for item in await context.store.items(entry.id):
        if item["id"] == item_id:
            return JSONResponse(item, headers=ignored_query(request))
    raise no_item(item_id)


@router.delete("/v1/conversations/{conversation_id}/items/{item_id}")
async def delete_item(request: Request, context: Context, conversation_id: str, item_id: str) -> JSONResponse:
    """Delete an item of a conversation."""
    entry = await find_conversation(context.store, request.state.owner, conversation_id)
    if not await context.store.delete_item(entry.id, item_id):
        raise no_item(item_id)
    return JSONResponse(shown_conversation(entry))


async def _objects(items: list[InputItem], request: Request, context: ServerContext) -> list[Item]:
    return input_objects(await resolved(items, context.store, request.state.owner, "items"))
