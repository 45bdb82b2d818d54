"""Resumable streams: generations that run independently of their requests, and reading on after a disconnect."""

import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from fastapi import Request
from starlette.responses import Response

from engine.errors import InvalidRequest
from server.generation.generation import Generation
from server.http.body import context_of
from server.http.query import ignored_query
from server.http.sse import EventStream, error_event, generated
from server.protocols.frame import AnswerFormatter, StreamForm
from server.runs.registry import new_stream_id
from server.runs.run import Run, RunOptions
from server.schemas.base import quote

_EVENT_ID = re.compile(r"(stream_[0-9a-f]{1,64}):([0-9]{1,12})")


async def resumable(
    request: Request, generation: Generation, formatter: AnswerFormatter, headers: dict[str, str]
) -> Response:
    """Run the generation independently of the request, and return a response that streams it. If the engine refuses it,
    raises the error before the stream starts."""
    runs = context_of(request).runs
    source = contextlib.AsyncExitStack()
    broken = error_event(formatter, request.state.request_id)
    stream_id = new_stream_id()
    options = RunOptions(
        id=stream_id,
        owner=request.state.owner,
        route=request.scope["route"].path,
        form=formatter.stream_form,
        broken=broken,
        cut=broken,
        waits_for_readers=True,
        headers={**headers, "x-stream-id": stream_id},
    )
    events = await source.enter_async_context(generated(generation, formatter))
    run = runs.start(options, events, source)
    # A client that leaves before it knows the stream's id can come back to it only by its Idempotency-Key.
    is_keyed = "idempotency-key" in request.headers
    return stream_run(request, run, after=0, on_unseen=None if is_keyed else lambda: runs.delete(run))


def resumed_by_header(request: Request) -> Response | None:
    """Return the rest of a stream if the client repeats its request with a Last-Event-ID; None without that header.
    Raises InvalidRequest, StreamNotFound or EventsDropped."""
    last_event_id = request.headers.get("last-event-id")
    if not last_event_id:
        return None
    run_id, number = _parse(last_event_id)
    began = context_of(request).runs.get(run_id, request.state.owner).options.route
    if began != (route := request.scope["route"].path):
        raise InvalidRequest(f"last-event-id names a stream of {began}, and this is {route}; send the request there")
    return resumed(request, run_id, after=number)


def resumed(request: Request, run_id: str, *, after: int | None) -> Response:
    """Return a response with the stream's events after number `after`, past and future. A Last-Event-ID header
    overrides `after`. Raises InvalidRequest, StreamNotFound or EventsDropped."""
    run = context_of(request).runs.get(run_id, request.state.owner)
    if last_event_id := request.headers.get("last-event-id"):
        given_id, after = _parse(last_event_id)
        if given_id != run_id:
            raise InvalidRequest(f"last-event-id is {quote(last_event_id)}, which belongs to another stream")
    if after is not None and after > run.log.num_events:
        raise InvalidRequest(
            f"event {after} has not happened yet; the stream has {run.log.num_events} so far",
            param=None if last_event_id else "starting_after",
        )
    context_of(request).runs.count_resumed()
    if run.log.has_ended and after and after == run.log.num_events:
        return Response(status_code=204)  # browsers' EventSource reconnects until it gets this status
    run.log.after(after or 0, 0)  # raises EventsDropped while it can still become a status
    ignored = ignored_query(request, "starting_after")
    with_ids = "x-stream-id" in run.options.headers  # a background response's events have numbers of their own
    return stream_run(request, run, after=after or 0, with_ids=with_ids, headers=ignored)


def stream_run(
    request: Request,
    run: Run,
    *,
    after: int,
    with_ids: bool = True,
    headers: Mapping[str, str] | None = None,
    on_unseen: Callable[[], Awaitable[None]] | None = None,
) -> EventStream:
    """Return a response that streams the run's events after number `after`. headers: added to the run's headers.
    on_unseen: called if the client disconnects before it has the headers."""
    form = run.options.form
    return EventStream(
        _read(run, after, with_ids),
        StreamForm(form.media_type, form.ping, b""),  # the end mark is in the log
        run.options.cut,
        context_of(request).config,
        headers={**run.options.headers, **(headers or {})},
        on_unseen=on_unseen,
        run_id=run.id,
    )


@contextlib.asynccontextmanager
async def _read(run: Run, after: int, with_ids: bool) -> AsyncIterator[AsyncIterator[bytes]]:
    with run.reader(after) as reader:
        batches = aiter(reader)
        yield _with_ids(run.id, reader.read, batches) if with_ids else (b"".join(events) async for events in batches)


async def _with_ids(run_id: str, number: int, batches: AsyncIterator[list[bytes]]) -> AsyncIterator[bytes]:
    """Yield each batch of events as one chunk, with event ids. number: the number of the last event before the first
    batch."""
    async for events in batches:
        yield b"".join(b"id: %s:%d\n%s" % (run_id.encode(), i, event) for i, event in enumerate(events, number + 1))
        number += len(events)


def _parse(event_id: str) -> tuple[str, int]:
    match = _EVENT_ID.fullmatch(event_id.strip())
    if match is None:
        raise InvalidRequest(f"last-event-id is {quote(event_id)}; it must be the id of an event of a stream")
    return match[1], int(match[2])
