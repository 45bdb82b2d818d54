"""EventStream: a streaming response with end mark, keep-alive comments, error events, and disconnect handling."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.config.server import ServerConfig
from server.errors import ClientGone
from server.generation.generation import Generation
from server.http.connections.chunk_writer import CHUNKS_STATE, ChunkWriter
from server.http.disconnect import until_disconnect
from server.http.error_forms import reply_to
from server.protocols.frame import AnswerFormatter, StreamForm

_MAX_STATUS_WAIT_S = 45.0  # most proxies wait 60 s for the head of an answer
_DROP_S = 1.0  # from the end of its time in the queue until a request is dropped, which takes up to a step


def status_wait_s(config: ServerConfig) -> float:
    """Return how many seconds a stream's HTTP status waits for the first event: one ping interval, or as long as
    --queue-timeout can still fail the request with an error status."""
    wait_s = 0.0 if config.queue_timeout is None else config.queue_timeout + _DROP_S
    return max(config.sse_ping_interval, wait_s if wait_s <= _MAX_STATUS_WAIT_S else 0.0)


# Characters that JSON does not escape, and at which clients split a stream into lines (str.splitlines, so also httpx)
_LINE_BREAKS = tuple((char.encode(), f"\\u{ord(char):04x}".encode()) for char in "\u0085\u2028\u2029")

Source = contextlib.AbstractAsyncContextManager[AsyncIterator[bytes]]
ErrorEvent = Callable[[Exception], bytes]  # returns the event that ends a stream after an error


def error_event(formatter: AnswerFormatter, request_id: str) -> ErrorEvent:
    return lambda error: formatter.broken(reply_to(error, request_id))


@contextlib.asynccontextmanager
async def generated(generation: Generation, formatter: AnswerFormatter) -> AsyncIterator[AsyncIterator[bytes]]:
    """Provide the events of a generation. Leaving the context ends the generation."""
    async with generation, contextlib.aclosing(formatter.events(generation)) as events:
        yield events


def escape_line_breaks(events: bytes) -> bytes:
    """Return streamed JSON with U+0085, U+2028 and U+2029 as JSON escapes, which leave its values the same."""
    if events.isascii():
        return events
    for char, escape in _LINE_BREAKS:
        events = events.replace(char, escape)
    return events


class EventStream(Response):
    """Streams events from a source, which is closed when they end or the client disconnects.

    The HTTP status is sent with the first event, so that an earlier error is an ordinary HTTP error. It waits no longer
    than `status_wait_s`, since a request far back in the queue must not look dead to proxies.
    """

    def __init__(
        self,
        source: Source,
        form: StreamForm,
        broken: ErrorEvent,
        config: ServerConfig,
        *,
        headers: dict[str, str],
        late_headers: Callable[[], Mapping[str, str]] = dict,
        on_unseen: Callable[[], Awaitable[None]] | None = None,
        run_id: str | None = None,
    ) -> None:
        """late_headers: returns the headers that are known only after the source's context is entered. on_unseen:
        called if the client disconnects before the headers are sent. run_id: the source's run, if it is one."""
        self.status_code = 200
        self.media_type = form.media_type
        self.background = None
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no", **headers})
        self.run_id = run_id
        self._late_headers = late_headers
        self._on_unseen = on_unseen
        self._source = source
        self._form = form
        self._broken = broken
        self._ping_interval_s = config.sse_ping_interval
        self._status_wait_s = status_wait_s(config)
        self._last_sent_s = 0.0
        self._chunks: ChunkWriter | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._chunks = scope.get("state", {}).get(CHUNKS_STATE)
        async with self._source as events:
            first = asyncio.ensure_future(anext(events, b""))  # b"" if there are no events
            try:
                waiting = asyncio.wait({first}, timeout=self._status_wait_s)
                try:
                    await until_disconnect(waiting, receive)
                except ClientGone:
                    if self._on_unseen is not None:
                        await self._on_unseen()
                    raise
                if first.done():
                    first.result()  # raises an error that becomes an ordinary HTTP error
                self.headers.update(self._late_headers())
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                if not first.done() and self._form.ping:
                    await self._send(self._form.ping, send)
                await until_disconnect(self._send_all(first, events, send), receive)
            finally:
                first.cancel()  # the generator cannot be closed while its first event is awaited
                await asyncio.gather(first, return_exceptions=True)

    async def _send_all(self, first: asyncio.Future[bytes], events: AsyncIterator[bytes], send: Send) -> None:
        self._last_sent_s = time.monotonic()
        pings = asyncio.create_task(self._ping(send))
        coming: Awaitable[bytes] = first
        try:
            while True:  # this loop runs once per token: no generator stands between it and the source
                try:
                    event = await coming
                except StopAsyncIteration:
                    break
                except Exception as error:  # noqa: BLE001 - the route boundary, inside a stream
                    await self._send(self._broken(error), send)
                    break
                if event and not self._write(event):
                    await self._send(event, send)
                coming = anext(events)
            if self._form.end:
                await self._send(self._form.end, send)
        finally:
            pings.cancel()
            await asyncio.gather(pings, return_exceptions=True)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _write(self, body: bytes) -> bool:
        """Write the body to the connection, if that is possible without waiting; return whether it was."""
        if self._chunks is None or not self._chunks.write(escape_line_breaks(body)):
            return False
        self._last_sent_s = time.monotonic()
        return True

    async def _send(self, body: bytes, send: Send) -> None:
        await send({"type": "http.response.body", "body": escape_line_breaks(body), "more_body": True})
        self._last_sent_s = time.monotonic()

    async def _ping(self, send: Send) -> None:
        """Send a keep-alive comment after each silent ping interval, so that no proxy closes the stream."""
        while self._form.ping:
            silent_s = time.monotonic() - self._last_sent_s
            if silent_s >= self._ping_interval_s:
                await self._send(self._form.ping, send)
                silent_s = 0.0
            await asyncio.sleep(self._ping_interval_s - silent_s)
