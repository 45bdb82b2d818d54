"""GET /dashboard/events: the engine's work as it happens, for the dashboard."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

from fastapi import APIRouter
from starlette.responses import Response

from server.errors import describe
from server.http.body import Context
from server.http.operators import OPERATORS_ONLY
from server.http.sse import EventStream, Framing
from server.live.feed import LiveFeed

router = APIRouter(tags=["Operations"])


@router.get("/dashboard/events", dependencies=[OPERATORS_ONLY])
async def events(context: Context) -> Response:
    """Tell what the engine and its requests do, four times a second. It is the dashboard's: its form may change."""
    return EventStream(_watched(context.live), _FRAMING, context.config, headers={})


@contextlib.asynccontextmanager
async def _watched(live: LiveFeed) -> AsyncIterator[AsyncIterator[bytes]]:
    async with contextlib.aclosing(_events(live)) as events:
        yield events


async def _events(live: LiveFeed) -> AsyncGenerator[bytes]:
    async with contextlib.aclosing(live.watch()) as frames:
        async for frame in frames:
            yield b"data: " + frame + b"\n\n"


def _broken(error: Exception) -> bytes:
    return b"data: " + describe(error, "dashboard").body() + b"\n\n"


_FRAMING = Framing("text/event-stream", ping=b": ping\n\n", end=b"", broken=_broken)
