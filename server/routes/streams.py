"""GET and DELETE /v1/streams/{stream_id}: resumable streams."""

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from server.http.body import Context
from server.http.query import query_int
from server.http.resume import resumed

router = APIRouter(tags=["Resumable streams"])


@router.get("/v1/streams/{stream_id}")
async def get_stream(request: Request, stream_id: str) -> Response:
    """Continue a resumable stream after the event `Last-Event-ID`, or after event number `starting_after`."""
    return resumed(request, stream_id, after=query_int(request, "starting_after"))


@router.delete("/v1/streams/{stream_id}")
async def delete_stream(request: Request, context: Context, stream_id: str) -> JSONResponse:
    """Delete a resumable stream, which stops for all its readers; with `grace`, after that many seconds without one."""
    run = context.runs.get(stream_id, request.state.owner)
    grace_s = query_int(request, "grace")
    if grace_s is None:
        await context.runs.delete(run)
    else:
        context.runs.shorten_grace(run, grace_s)
    return JSONResponse({"id": stream_id, "object": "stream", "deleted": grace_s is None})
