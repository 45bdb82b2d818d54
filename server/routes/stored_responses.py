"""/v1/responses/{response_id}: stored responses, and responses that run in the background."""

from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from engine.errors import InvalidRequest, UnsupportedParameter
from server.http.body import Context, json_response
from server.http.error_forms import add_refusals
from server.http.query import ignored_query, page_query, query_bool, query_int
from server.http.resume import stream_run
from server.schemas.base import quote
from server.schemas.conversations import ListQuery
from server.state.background import running_response, stop, unstored_end
from server.state.history import used_items
from server.state.records import RESPONSE, RUNNING, find_response, item_list, no_response, shown_response

router = APIRouter(tags=["Responses"])
add_refusals(
    router, {("GET", "/v1/responses"): "responses do not come over WebSockets; POST to this path, with stream: true"}
)


@router.post("/v1/responses/compact", include_in_schema=False)
async def compact_responses() -> None:
    """Raise UnsupportedParameter, since this server does not compact conversations."""
    raise UnsupportedParameter(
        "this server does not compact; with truncation: auto a response leaves out the oldest items",
        param="input",
    )


@router.get("/v1/responses/{response_id}")
async def get_response(request: Request, context: Context, response_id: str) -> Response:
    """Retrieve a stored response, or stream the events of a background response with `stream=true`."""
    after = query_int(request, "starting_after")
    if query_bool(request, "stream"):
        return await _stream(request, context, response_id, after)
    if after is not None:
        raise InvalidRequest("starting_after needs stream=true", param="starting_after")
    return json_response(await _current(request, context, response_id), _ignored(request))


async def _current(request: Request, context: Context, response_id: str) -> dict[str, Any]:
    """Return the current state of a stored or running response. Raises NotStored."""
    if (found := running_response(context, request.state.owner, response_id)) is not None:
        current: dict[str, Any] = msgspec.to_builtins(found[1].response)
        return current
    entry = await find_response(context.store, request.state.owner, response_id)
    shown = await shown_response(context.store, entry)
    return unstored_end(context, request.state.owner, shown) if entry.state in RUNNING else shown


async def _stream(request: Request, context: Context, response_id: str, after: int | None) -> Response:
    run = context.runs.find(response_id, request.state.owner)
    if run is None:
        await find_response(context.store, request.state.owner, response_id)
        raise InvalidRequest(
            f"the events of {quote(response_id)} are not kept: only those of background responses are, until "
            "--stream-resume-grace seconds after their end; retrieve it without stream",
            param="stream",
        )
    number = 0 if after is None else after + 1  # of the event; events count from 1
    if number > run.log.num_events:
        raise InvalidRequest(
            f"starting_after is {after}; the last event so far is {run.log.num_events - 1}", param="starting_after"
        )
    run.log.after(number, 0)  # raises EventsDropped while it can still become a status
    context.runs.count_resumed()
    return stream_run(request, run, after=number, with_ids=False, headers=_ignored(request))


@router.delete("/v1/responses/{response_id}")
async def delete_response(request: Request, context: Context, response_id: str) -> JSONResponse:
    """Delete a stored response, and stop it if it still runs."""
    owner = request.state.owner
    if (found := running_response(context, owner, response_id)) is not None:
        await stop(context, *found)
    elif (run := context.runs.find(response_id, owner)) is not None:
        await context.runs.delete(run)
    if not await context.store.delete(RESPONSE, response_id, owner):
        raise no_response(response_id)
    return JSONResponse({"id": response_id, "object": "response", "deleted": True})


@router.post("/v1/responses/{response_id}/cancel")
async def cancel_response(request: Request, context: Context, response_id: str) -> Response:
    """Cancel a background response."""
    if (found := running_response(context, request.state.owner, response_id)) is not None:
        await stop(context, *found)
    response = await _current(request, context, response_id)
    if not response["background"]:
        raise InvalidRequest("Cannot cancel a synchronous response.", param="response_id")
    return json_response(response, {})


@router.get("/v1/responses/{response_id}/input_items")
async def list_input_items(request: Request, context: Context, response_id: str) -> Response:
    """List a response's input items, including the items of earlier turns, newest first."""
    query = page_query(request, ListQuery, "order")
    entry = await find_response(context.store, request.state.owner, response_id)
    return json_response(item_list(await used_items(entry, context.store), query), _ignored(request))


def _ignored(request: Request) -> dict[str, str]:
    """Return the header that lists ignored query parameters, such as `include`, which works only for new responses."""
    return ignored_query(request, "stream", "starting_after", "after", "limit", "order")
