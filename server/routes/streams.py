"""GET and DELETE /v1/streams/{stream_id}: streams that go on without their clients."""

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from engine.errors import InvalidRequest
from server.http.body import Context
from server.http.resume import resumed
from server.schemas.base import quote

router = APIRouter()


@router.get("/v1/streams/{stream_id}")
async def get_stream(request: Request, stream_id: str) -> Response:
    """Go on with a resumable stream, behind the event of `Last-Event-ID` or of number `starting_after`."""
    given = request.query_params.get("starting_after")
    if given is not None and not (given.isascii() and given.isdecimal() and len(given) < 13):
        raise InvalidRequest(
            f"starting_after is {quote(given)}; it must be the number of an event", param="starting_after"
        )
    return resumed(request, stream_id, after=None if given is None else int(given))


@router.delete("/v1/streams/{stream_id}")
async def delete_stream(request: Request, context: Context, stream_id: str) -> JSONResponse:
    """Stop a resumable stream, whoever reads it, and forget its events."""
    run = context.runs.get(stream_id, request.state.owner)
    await context.runs.delete(run)
    return JSONResponse({"id": stream_id, "object": "stream", "deleted": True})
