"""answered_once: a request with an Idempotency-Key is computed once, and sent again when the client repeats it."""

import hashlib
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from engine.errors import InvalidRequest
from server.errors import StreamNotFound
from server.http.body import context_of
from server.http.connections.chunk_writer import CHUNKS_STATE
from server.http.resume import resumed
from server.http.sse import EventStream
from server.metrics.request_record import current_record
from server.runs.keyed_answers import MAX_ANSWER_BYTES, KeyedAnswers, KeyedRequest, WholeAnswer

_HEADER = "idempotency-key"
_MAX_KEY = 255  # characters


def idempotency_key(request: Request) -> str | None:
    """Return the client's Idempotency-Key, or None without one. Raises InvalidRequest for an empty or long one."""
    key = request.headers.get(_HEADER)
    if key is not None and not 0 < len(key) <= _MAX_KEY:
        raise InvalidRequest(f"the Idempotency-Key has {len(key)} characters; it must have 1 to {_MAX_KEY}")
    return key


def body_digest(body: Any) -> bytes:
    """Return a digest of a JSON value, or of what msgspec makes of it, that does not depend on the order of fields."""
    return hashlib.blake2b(msgspec.json.encode(body, order="sorted"), digest_size=16).digest()


async def answered_once(
    request: Request, key: str, digest: bytes, respond: Callable[[], Awaitable[Response]]
) -> Response:
    """Return `respond()`, or if the key was sent before, the answer of the first request with it.

    Only whole answers of status 200 are kept. A client that leaves ends its request, whose key is free again then,
    unless its stream is a run, which continues and is joined. Raises InvalidRequest and RequestInProgress.
    """
    answers, owner, path = context_of(request).answers, request.state.owner, request.scope["route"].path
    first, is_new = answers.begin(owner, path, key, digest)
    if not is_new and first.stream_id is not None:
        try:
            return resumed(request, first.stream_id, after=None)
        except StreamNotFound:  # its client stayed away for too long
            answers.release(first)
            first, is_new = answers.begin(owner, path, key, digest)
    if first.answer is not None:
        return _RepeatedAnswer(first.answer)
    try:
        response = await respond()
    except BaseException:
        answers.release(first)
        raise
    first.stream_id = response.run_id if isinstance(response, EventStream) else None
    return response if first.stream_id is not None else _RecordedAnswer(response, first, answers)


class _RepeatedAnswer(Response):
    """An answer that was sent before."""

    def __init__(self, answer: WholeAnswer) -> None:
        super().__init__(answer.body)
        own = [(b"content-length", str(len(answer.body)).encode()), (b"idempotent-replayed", b"true")]
        self.raw_headers = [*(each for each in answer.headers if each[0] != b"content-length"), *own]


class _RecordedAnswer(Response):
    """Sends a response, and keeps it for the next request with the same key."""

    def __init__(self, response: Response, request: KeyedRequest, answers: KeyedAnswers) -> None:
        self.background = None
        self.status_code = response.status_code
        self._response = response
        self._request = request
        self._answers = answers
        self._head: list[tuple[bytes, bytes]] = []
        self._body = bytearray()
        self._is_whole = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def forward(message: Message) -> None:
            self._record(message)
            await send(message)

        scope["state"].pop(CHUNKS_STATE, None)  # chunks written past this layer would be missing from the kept answer
        try:
            await self._response(scope, receive, forward)
        finally:
            record = current_record()
            is_error = record is not None and record.error_status != 0  # an event of a stream may be one
            if self._is_whole and not is_error:
                self._answers.keep(self._request, WholeAnswer(self._head, bytes(self._body)))
            else:
                self._answers.release(self._request)

    def _record(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status_code, self._head = message["status"], list(message["headers"])
        elif len(self._body) <= MAX_ANSWER_BYTES:
            self._body += message.get("body", b"")
            is_end = not message.get("more_body", False)
            self._is_whole = is_end and self.status_code == HTTPStatus.OK and len(self._body) <= MAX_ANSWER_BYTES
