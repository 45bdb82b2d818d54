"""Background responses: generations that continue without a connected client."""

import contextlib
from typing import Any

import msgspec
from fastapi import Request

from server.context import ServerContext
from server.errors import ErrorReply, describe_error
from server.generation.generation import Generation
from server.http.sse import error_event, generated
from server.protocols.frame import frame
from server.runs.run import Run, RunOptions
from server.state.keeping import KeptResponse


async def start_background(
    request: Request, context: ServerContext, generation: Generation, kept: KeptResponse, headers: dict[str, str]
) -> Run:
    """Start a generation in the background, and store its response as queued.

    Raises StorageFailed, or the error with which the engine refuses the request; no generation runs afterwards.
    """
    request_id = request.state.request_id
    kept.response.background = True
    kept.response.status = "queued"
    async with contextlib.AsyncExitStack() as source:
        events = await source.enter_async_context(generated(generation, kept))
        await kept.save()
        options = RunOptions(
            id=kept.response.id,
            owner=request.state.owner,
            route=request.scope["route"].path,
            form=kept.stream_form,
            broken=error_event(kept, request_id),
            cut=lambda error: _error_event(describe_error(error, request_id)),
            waits_for_readers=False,
            headers=headers,
            subject=kept,
        )
        return context.runs.start(options, events, source.pop_all(), is_pinned=True)


def running_response(context: ServerContext, owner: str, response_id: str) -> tuple[Run, KeptResponse] | None:
    """Return a background response that has not ended, with its run; None if there is none."""
    run = context.runs.find(response_id, owner)
    if run is None or not isinstance(run.options.subject, KeptResponse) or run.log.has_ended:
        return None
    return run, run.options.subject


def unstored_end(context: ServerContext, owner: str, stored: dict[str, Any]) -> dict[str, Any]:
    """Return the final state of a response that has ended, but is stored as running since storing its end failed. While
    its run is in memory, this is the state there; afterwards, the stored response marked as failed."""
    run = context.runs.find(stored["id"], owner)
    if run is not None and isinstance(run.options.subject, KeptResponse):
        shown: dict[str, Any] = msgspec.to_builtins(run.options.subject.response)
        return shown
    error = {"code": "server_error", "message": "the end of the response could not be stored; send the request again"}
    return {**stored, "status": "failed", "error": error}


async def stop(context: ServerContext, run: Run, kept: KeptResponse) -> None:
    """Cancel the response, stop its generation, and store it as canceled."""
    if kept.has_ended:  # it is being stored
        await run.wait_until_ended()
        return
    kept.cancel()
    await context.runs.delete(run)
    await kept.save()


def _error_event(reply: ErrorReply) -> bytes:
    """Return an error event for one client's stream, which does not change the response's state."""
    error = {"type": "error", "code": reply.code, "message": reply.message, "param": reply.param}
    return b"event: error\n" + frame(error)
