"""/dashboard/...: data for the dashboard: the engine's activity, and jobs."""

import contextlib
from collections.abc import AsyncGenerator

from fastapi import APIRouter, Request
from starlette.responses import Response

from engine.errors import InvalidRequest
from server.dashboard.job import job_report
from server.dashboard.jobs import jobs_report
from server.dashboard.server_report import server_report
from server.errors import describe_error
from server.http.body import Context, json_response
from server.http.operators import OPERATORS_ONLY, is_operators
from server.http.query import ignored_query, query_int
from server.http.sse import EventStream
from server.live.feed import LiveFeed
from server.protocols.frame import StreamForm
from server.schemas.dashboard_server import SettingList

router = APIRouter(tags=["Operations"])

_NO_STORE = {"cache-control": "no-store"}
_FORM = StreamForm("text/event-stream", ping=b": ping\n\n", end=b"")


@router.get("/dashboard/events", dependencies=[OPERATORS_ONLY])
async def events(request: Request, context: Context) -> Response:
    """Stream the activity of a model's engine and its requests, four times a second. `model` defaults to the first one.

    The stream is for the dashboard, and its form may change.
    """
    num_frames = query_int(request, "frames")
    if num_frames == 0:
        raise InvalidRequest("frames is 0; it must be at least 1, or left out for frames without end", param="frames")
    headers = ignored_query(request, "frames", "model")
    name = request.query_params.get("model")
    live = context.live if name is None else context.models.find(name).live
    return EventStream(contextlib.aclosing(_events(live, num_frames)), _FORM, _broken, context.config, headers=headers)


@router.get("/dashboard/requests/{request_id}", dependencies=[OPERATORS_ONLY])
async def request_story(context: Context, request_id: str) -> Response:
    """Report what the engine did with a request, when and why. `request_id` may also be the answer's id."""
    story = context.models.story(request_id)
    return json_response(story, _NO_STORE)


@router.get("/dashboard/server", dependencies=[OPERATORS_ONLY])
async def server(request: Request, context: Context) -> Response:
    """Report the machine's load, the last hour and day by key, restarts, jobs, and whether one more user fits."""
    return json_response(await server_report(context, request.state.owner), _NO_STORE)


@router.get("/dashboard/settings", dependencies=[OPERATORS_ONLY])
async def settings(context: Context) -> Response:
    """List the options in force, without secrets."""
    return json_response(SettingList(context.settings), _NO_STORE)


@router.get("/dashboard/log", dependencies=[OPERATORS_ONLY])
async def log(request: Request, context: Context) -> Response:
    """List the last lines of the server process's log; with `after`, those with higher numbers."""
    lines = context.log.after(query_int(request, "after") or 0)
    return json_response(lines, {**_NO_STORE, **ignored_query(request, "after")})


@router.get("/dashboard/jobs")
async def jobs(request: Request, context: Context) -> Response:
    """List the caller's batches, fine-tuning jobs and files with their progress; for an operator, everyone's."""
    report = await jobs_report(context, request.state.owner, is_everyones=is_operators(request.scope))
    return json_response(report, _NO_STORE)


@router.get("/dashboard/jobs/{job_id}")
async def job(request: Request, context: Context, job_id: str) -> Response:
    """Report a job's figures and, to its owner, also its samples, events and errors; with `after`, newer events only.

    A key may see its own jobs, and an operator all.
    """
    report = await job_report(
        context,
        job_id,
        request.state.owner,
        sees_all=is_operators(request.scope),
        after=query_int(request, "after") or 0,
    )
    return json_response(report, {**_NO_STORE, **ignored_query(request, "after")})


async def _events(live: LiveFeed, num_frames: int | None) -> AsyncGenerator[bytes]:
    async with contextlib.aclosing(live.watch(num_frames)) as frames:
        async for frame in frames:
            yield b"data: " + frame + b"\n\n"


def _broken(error: Exception) -> bytes:
    return b"data: " + describe_error(error, "dashboard").body() + b"\n\n"
