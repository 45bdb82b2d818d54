"""Background responses: runs that continue with or without a reader."""

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
    """Start the generation and store its response as queued.

    Raises the engine's refusal, and StorageFailed; then nothing runs.
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
    """Return the run of a response that has not ended; None if there is none."""
    run = context.runs.find(response_id, owner)
    if run is None or not isinstance(run.options.subject, KeptResponse) or run.log.has_ended:
        return None
    return run, run.options.subject


def unstored_end(context: ServerContext, owner: str, stored: dict[str, Any]) -> dict[str, Any]:
    """Return a response that is stored as running because its end could not be stored: as the run has it, while the
    run's events are held, and later as failed."""
    run = context.runs.find(stored["id"], owner)
    if run is not None and isinstance(run.options.subject, KeptResponse):
        shown: dict[str, Any] = msgspec.to_builtins(run.options.subject.response)
        return shown
    error = {"code": "server_error", "message": "the end of the response could not be stored; send the request again"}
    return {**stored, "status": "failed", "error": error}


async def stop(context: ServerContext, run: Run, kept: KeptResponse) -> None:
    """End the response as canceled, in the engine too, and store that."""
    if kept.has_ended:  # it is being stored
        await run.wait_until_ended()
        return
    kept.cancel()
    await context.runs.delete(run)
    await kept.save()


def _error_event(reply: ErrorReply) -> bytes:
    """Return an event that ends one client's stream without a statement about the response."""
    error = {"type": "error", "code": reply.code, "message": reply.message, "param": reply.param}
    return b"event: error\n" + frame(error)
