"""Streams of events: the end mark, keep-alive comments, errors, and clients that go away."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.errors import describe
from server.generation.generation import Generation
from server.http.disconnect import until_disconnect
from server.protocols.formatter import AnswerFormatter


class EventStream(Response):
    """Streams a generation as events and ends it when the client goes away.

    The status waits for the first event, so that what goes wrong until then is an ordinary HTTP error. But not for
    longer than a ping interval: a request far back in the queue must not look dead to the proxies on its way.
    """

    def __init__(
        self,
        generation: Generation,
        formatter: AnswerFormatter,
        *,
        ping_interval_s: float,
        request_id: str,
        headers: dict[str, str],
    ) -> None:
        self.status_code = 200
        self.media_type = formatter.stream_form.media_type
        self.background = None
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no", **headers})
        self._generation = generation
        self._formatter = formatter
        self._form = formatter.stream_form
        self._ping_interval_s = ping_interval_s
        self._request_id = request_id
        self._last_sent_s = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        async with self._generation, contextlib.aclosing(self._formatter.events(self._generation)) as events:
            first = asyncio.ensure_future(anext(events))
            try:
                waiting = asyncio.wait({first}, timeout=self._ping_interval_s)
                await until_disconnect(waiting, receive)
                if first.done():
                    first.result()  # raises what the client should get as a plain error
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                if not first.done() and self._form.ping:
                    await self._send(self._form.ping, send)
                await until_disconnect(self._send_all(first, events, send), receive)
            finally:
                first.cancel()  # the generator cannot be closed while somebody waits for its first event
                await asyncio.gather(first, return_exceptions=True)

    async def _send_all(self, first: asyncio.Future[bytes], events: AsyncIterator[bytes], send: Send) -> None:
        self._last_sent_s = time.monotonic()
        pings = asyncio.create_task(self._ping(send))
        try:
            async for event in self._with_end(_chain(first, events)):
                await self._send(event, send)
        finally:
            pings.cancel()
            await asyncio.gather(pings, return_exceptions=True)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _with_end(self, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The events, an error event if they break off, and the end mark."""
        try:
            async for event in events:
                yield event
        except Exception as error:  # noqa: BLE001 - the route boundary, inside a stream
            yield self._formatter.broken(describe(error, self._request_id))
        if self._form.end:
            yield self._form.end

    async def _send(self, body: bytes, send: Send) -> None:
        await send({"type": "http.response.body", "body": body, "more_body": True})
        self._last_sent_s = time.monotonic()

    async def _ping(self, send: Send) -> None:
        """Send a comment in each silence, so that nobody between here and the client takes it for dead."""
        while self._form.ping:
            silent_s = time.monotonic() - self._last_sent_s
            if silent_s >= self._ping_interval_s:
                await self._send(self._form.ping, send)
                silent_s = 0.0
            await asyncio.sleep(self._ping_interval_s - silent_s)


async def _chain(first: asyncio.Future[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield await first
    async for event in rest:
        yield event
