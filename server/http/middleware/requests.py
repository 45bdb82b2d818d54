"""RequestMiddleware: gives every request an id, a record, a trace and error responses.

It is pure ASGI, since Starlette's BaseHTTPMiddleware would hide disconnects from handlers.
"""

import re
import time
import uuid
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.context import ServerContext
from server.errors import AmbiguousRequest, ClientGone, HeadersTooLarge, TooManyConnections
from server.http.connections.certificates import SUBJECT_STATE
from server.http.connections.chunk_writer import CHUNKS_STATE, ChunkWriter
from server.http.connections.open_connections import REFUSED_STATE
from server.http.error_forms import error_response, reply_to
from server.http.middleware.auth import COUNTED_STATE, set_caller
from server.http.middleware.load_headers import STARTED_HEADER, load_headers
from server.http.middleware.rate_headers import rate_headers
from server.http.middleware.request_log import RequestLog
from server.http.waiting_stream import WaitingStream
from server.keys.caller import ANYBODY, caller_of
from server.metrics.request_record import CLIENT_GONE, RequestRecord, set_current_record
from server.paths import PROBES, route_path

if TYPE_CHECKING:  # OpenTelemetry is an extra
    from server.tracing.request_trace import RequestTrace

_MAX_HEADERS = 200
_MAX_HEAD_BYTES = 64 * 1024  # of names, values and the request's target together
_HOST = re.compile(
    rb"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._~%!$&'()*+,;=-]*)(:[0-9]*)?"
)  # RFC 3986's reg-name, or an address
_VERSIONS = ("1.0", "1.1")

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_ID = re.compile(r"(?!\.+\Z)[A-Za-z0-9._-]{1,128}")
_STREAMS = ("text/event-stream", "application/x-ndjson")


class RequestMiddleware:
    """Gives each request its id, arrival time and record, and turns exceptions into error responses."""

    def __init__(self, app: ASGIApp, context: ServerContext, loaded_paths: frozenset[str]) -> None:
        """loaded_paths: paths whose responses tell the load of the engine."""
        self._app = app
        self._context = context
        self._loaded_paths = loaded_paths
        self._log = RequestLog()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # the API has none
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._context, self._log, self._loaded_paths)
        try:
            exchange.begin()
            _check_connection(scope)
            check_head(scope)
            await self._app(scope, exchange.receive, exchange.send)
        except ClientGone:
            exchange.status = CLIENT_GONE
        except Exception as error:  # the route boundary
            reply = reply_to(error, exchange.request_id, route_path(scope))
            if exchange.has_answered:
                raise  # too late for an answer, so the server closes the connection
            await error_response(reply, exchange.request_id, scope)(scope, receive, exchange.send)
        finally:
            exchange.end()


class _Exchange:
    """One request and the state of its response."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        context: ServerContext,
        request_log: RequestLog,
        loaded_paths: frozenset[str],
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._context = context
        self._log = request_log
        self._loaded_paths = loaded_paths
        given = Headers(scope=scope).get("x-request-id", "")
        self.request_id = given if _REQUEST_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"
        self.status: int | None = None
        self._chunks: ChunkWriter | None = scope.get("state", {}).get(CHUNKS_STATE)
        self._has_chunks = True  # unless the end of the connection ends the body
        self._waiting: WaitingStream | None = None
        self._method = scope["method"] if scope["method"] in _METHODS else "other"
        self._record = RequestRecord(self.request_id, self._method, self._on_over, context.models.only_name)
        self._arrival_s = self._record.arrival_s
        self._trace: RequestTrace | None = None
        set_current_record(self._record)
        scope.setdefault("state", {}).update(
            request_id=self.request_id, arrival_s=self._arrival_s, begin_waiting=self.begin_waiting
        )
        set_caller(scope, ANYBODY)

    def begin(self) -> None:
        """Record the client, and start the trace. An exception here gets a response, unlike one in __init__."""
        scope, tracing = self._scope, self._context.tracing
        self._record.client = scope["client"][0] if scope.get("client") else None
        self._record.client_subject = scope["state"].get(SUBJECT_STATE)
        if tracing is not None:
            self._trace = tracing.begin(scope, self._method, self._arrival_s)
        if self._trace is not None:
            self._record.trace_id = self._trace.trace_id

    def _on_over(self, record: RequestRecord) -> None:
        self._context.metrics.count_request(record)
        self._context.keys.count(record)
        self._context.history.on_over(record)
        self._context.models.get_or_default(record.model_name).live.requests.on_over(record)
        if self._context.config.log_requests:
            self._log.log(record)
        if self._trace is not None:
            self._trace.finish(record)

    async def receive(self) -> Message:
        message = await self._receive()
        self._record.route = getattr(self._scope.get("route"), "path", self._record.route)  # if routed by now
        if message["type"] == "http.request":
            self._record.request_bytes += len(message.get("body", b""))
        return message

    @property
    def has_answered(self) -> bool:
        """Whether the response has started, so that no error response can be sent."""
        return self.status is not None and self._waiting is None

    async def begin_waiting(self, error_event: Callable[[bytes], bytes]) -> WaitingStream:
        """Start a stream before the application's response, which continues it. error_event: makes the event that ends
        the stream from the body of an error response."""
        waiting = WaitingStream(self._deliver, error_event)
        await waiting.begin()
        self._waiting = waiting
        return waiting

    async def send(self, message: Message) -> None:
        if self._waiting is not None:
            await self._waiting.forward(message)
        else:
            await self._deliver(message)

    async def _deliver(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            num_bytes = len(message.get("body", b""))
            self._record.response_bytes += num_bytes
            if not self._has_chunks and not message.get("more_body", False) and self._chunks is not None:
                self._chunks.end_without_chunks(num_bytes)
        elif message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.request_id
            headers["request-id"] = self.request_id  # Anthropic's name for it
            if self._trace is not None and (traceresponse := self._trace.response_header) is not None:
                headers["traceresponse"] = traceresponse
            self._record.is_stream = headers.get("content-type", "").startswith(_STREAMS)
            headers["openai-processing-ms"] = str(round((time.monotonic() - self._arrival_s) * 1000))
            if self._record.was_not_taken:  # before the headers report what is left
                self._settle_rate()
            for name, value in rate_headers(self._scope).items():
                headers[name] = value
            if self.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
                is_started = self._record.has_started and not self._record.was_not_taken
                headers[STARTED_HEADER] = str(is_started).lower()
            if self._record.route in self._loaded_paths:
                model = self._context.models.get_or_default(self._record.model_name)
                headers.update(load_headers(model.client.status(), Headers(scope=self._scope)))
            if self._context.drain.is_active:
                headers["connection"] = "close"  # the client's next request should find another server
            is_old = self._scope["http_version"] == "1.0" and self._scope["method"] != "HEAD"
            if is_old and self._chunks is not None and "content-length" not in headers:
                self._has_chunks = False
                self._chunks.begin_without_chunks()
        await self._send(message)

    def end(self) -> None:
        record = self._record
        record.route = getattr(self._scope.get("route"), "path", record.route)
        record.status = self.status if self.status is not None else CLIENT_GONE
        if self._chunks is not None:
            record.response_bytes += self._chunks.num_bytes
        record.http_s = time.monotonic() - record.arrival_s
        self._context.metrics.count_http(record)
        self._settle_rate()
        record.release()

    def _settle_rate(self) -> None:
        """Count the request against its key's rate limit, unless the server had no room or no engine for it."""
        if (account := caller_of(self._scope).account) is not None:
            account.end_request(self._scope["state"].get(COUNTED_STATE), is_counted=not self._record.was_not_taken)


def _check_connection(scope: Scope) -> None:
    """Raise TooManyConnections for a connection over the limit, except for probes: a full server is alive."""
    if REFUSED_STATE in scope["state"] and route_path(scope) not in PROBES:
        raise TooManyConnections(
            "too many connections are open, in all (--max-connections) or from this address "
            "(--max-connections-per-client); close some, or try again later"
        )


def check_head(scope: Scope) -> None:
    """Raise HeadersTooLarge or AmbiguousRequest for an invalid head, after which the connection is closed."""
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    size = len(scope["raw_path"]) + len(scope["query_string"]) + sum(len(name) + len(value) for name, value in headers)
    if len(headers) > _MAX_HEADERS or size > _MAX_HEAD_BYTES:
        raise HeadersTooLarge(
            f"the request has {len(headers)} header lines, and with its URL they have {size} bytes; the limits are "
            f"{_MAX_HEADERS} lines and {_MAX_HEAD_BYTES} bytes"
        )
    version = scope["http_version"]
    if version not in _VERSIONS:
        raise AmbiguousRequest(f"the request uses HTTP/{version}; this server speaks HTTP/1.1 and HTTP/1.0")
    _check_length(headers, version)
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (version == "1.1" and not hosts):
        raise AmbiguousRequest(f"the request has {len(hosts)} Host headers; it must have one")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise AmbiguousRequest("the request's Host header is not a host, or a host and a port")


def _check_length(headers: list[tuple[bytes, bytes]], version: str) -> None:
    """Raise AmbiguousRequest if the body's length is given twice, or its Transfer-Encoding is not chunked."""
    encodings = [value for name, value in headers if name == b"transfer-encoding"]
    lengths = [value for name, value in headers if name == b"content-length"]
    if encodings and lengths:
        raise AmbiguousRequest("the request has both Content-Length and Transfer-Encoding; it must have one of them")
    if len(lengths) > 1:
        raise AmbiguousRequest(f"the request has {len(lengths)} Content-Length headers; it must have one")
    if not encodings:
        return
    if version == "1.0":
        raise AmbiguousRequest("the request uses HTTP/1.0, which has no Transfer-Encoding; send a Content-Length")
    if len(encodings) > 1 or encodings[0].strip().lower() != b"chunked":
        raise AmbiguousRequest("the request's Transfer-Encoding is not 'chunked'; send the body unencoded")
