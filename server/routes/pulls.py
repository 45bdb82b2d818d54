"""POST /api/pull, /dashboard/pulls: operators' requests to fetch models into the cache (--pull-allow)."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

from fastapi import APIRouter, Request
from starlette.responses import Response

from server.http.body import Context, Json, ignored_body, json_response
from server.http.disconnect import until_disconnect
from server.http.error_forms import reply_to
from server.http.operators import OPERATORS_ONLY
from server.http.sse import EventStream
from server.protocols.ollama.lines import OLLAMA_STREAM, error_object
from server.protocols.ollama.pulling import SUCCESS, pull_lines
from server.pulling.pulls import Pulls
from server.schemas.ollama import OllamaPullRequest
from server.schemas.pulls import PullRequest

router = APIRouter()


@router.post("/api/pull", dependencies=[OPERATORS_ONLY], tags=["Ollama's"])
async def ollama_pull(request: Request, context: Context, body: Json[OllamaPullRequest]) -> Response:
    """Fetch a model into the cache in Ollama's protocol, as a stream unless `stream` is false. It is served only after
    a restart that names it. The pull stops when its last client leaves."""
    context.drain.check()
    headers = ignored_body(body, context)
    lines = _lines(context.pulls, body.model or body.name or "")
    if body.stream is False:
        await until_disconnect(_read_all(lines), request.receive)
        return json_response(SUCCESS, headers)
    request_id = request.state.request_id
    return EventStream(
        lines,
        OLLAMA_STREAM,
        lambda error: error_object(reply_to(error, request_id)) + b"\n",
        context.config,
        headers=headers,
    )


@router.get("/dashboard/pulls", dependencies=[OPERATORS_ONLY], tags=["Operations"])
async def list_pulls(context: Context) -> Response:
    """List the models that are being fetched into the cache or were, and the patterns of --pull-allow."""
    return json_response(context.pulls.report(), {"cache-control": "no-store"})


@router.post("/dashboard/pulls", dependencies=[OPERATORS_ONLY], tags=["Operations"])
async def start_pull(context: Context, body: Json[PullRequest]) -> Response:
    """Fetch a model into the cache in the background, or join the pull of it. It continues without a client."""
    context.drain.check()
    pull = context.pulls.start(body.model, is_kept=True)
    return json_response(pull.view(), ignored_body(body, context))


@router.delete("/dashboard/pulls/{pull_id}", dependencies=[OPERATORS_ONLY], tags=["Operations"])
async def stop_pull(context: Context, pull_id: str) -> Response:
    """Stop a pull. What has arrived stays, and the next pull of the model resumes."""
    return json_response(context.pulls.stop(pull_id).view())


@contextlib.asynccontextmanager
async def _lines(pulls: Pulls, name: str) -> AsyncGenerator[AsyncIterator[bytes]]:
    """Provide the lines of a pull in Ollama's form. Leaving the context stops it, unless others watch."""
    async with pulls.start(name, is_kept=False).watching() as views, contextlib.aclosing(pull_lines(views)) as lines:
        yield lines


async def _read_all(lines: contextlib.AbstractAsyncContextManager[AsyncIterator[bytes]]) -> None:
    async with lines as each:
        async for _ in each:
            pass
