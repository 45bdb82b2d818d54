"""The layers around the routes, in pure ASGI: Starlette's BaseHTTPMiddleware would hide disconnects from handlers."""

import re
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.errors import HeadraceError
from server.context import ServerContext
from server.errors import ClientGone, ForeignName, TooManyConnections
from server.http.certificates import SUBJECT_STATE
from server.http.connections import REFUSED_STATE
from server.http.error_forms import error_response, told
from server.http.head import check_head
from server.http.own_names import FOREIGN_NAME_STATE, host_name
from server.http.rate_headers import rate_headers
from server.http.request_log import RequestLog
from server.http.waiting_stream import WaitingStream
from server.keys.caller import ANYBODY, Caller, caller_of, set_current_caller
from server.keys.ring import KeyRing
from server.metrics.request_record import CLIENT_GONE, RequestRecord, current_record, set_current_record
from server.pages.files import NAMES as page_names
from server.paths import PROBES, route_path
from server.schemas.base import quote

if TYPE_CHECKING:  # OpenTelemetry is an extra
    from server.tracing.request_trace import RequestTrace

# The description of the API is the same for every server of a version, and a page cannot send a key for its parts.
_DESCRIPTION = frozenset(
    {"/openapi.json", "/docs", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/docs/start.js"}
)
# The pages' own files hold nothing of this server's. What the pages show they ask for, with a key.
_PAGES = frozenset({"/", "/dashboard", *(f"/assets/{name}" for name in page_names)})
OPEN_PATHS = PROBES | _DESCRIPTION | _PAGES

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_ID = re.compile(r"(?!\.+\Z)[A-Za-z0-9._-]{1,128}")
_COUNTED_STATE = "counted"  # in a scope's state: what the request takes of its key's rate
_STREAMS = ("text/event-stream", "application/x-ndjson")


class RequestMiddleware:
    """Gives each request its id and arrival time, and is the boundary that no exception crosses."""

    def __init__(self, app: ASGIApp, context: ServerContext) -> None:
        self._app = app
        self._context = context
        self._log = RequestLog()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # the API has none
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._context, self._log)
        try:
            exchange.begin()
            _check_connection(scope)
            check_head(scope)
            await self._app(scope, exchange.receive, exchange.send)
        except ClientGone:
            exchange.status = CLIENT_GONE
        except Exception as error:  # the route boundary
            reply = told(error, exchange.request_id)
            if exchange.has_answered:
                raise  # too late for an answer: the server closes the connection
            await error_response(reply, exchange.request_id, scope)(scope, receive, exchange.send)
        finally:
            exchange.end()


class _Exchange:
    """One request and what was sent in answer."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, context: ServerContext, request_log: RequestLog
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._context = context
        self._log = request_log
        given = Headers(scope=scope).get("x-request-id", "")
        self.request_id = given if _REQUEST_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"
        self.status: int | None = None
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
        """Note who asks, and begin the trace. What fails here, as nothing before it can, has an answer."""
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
        self._context.models.get_or_default(record.model_name).live.requests.on_over(record)
        if self._context.config.log_requests:
            self._log.log(record)
        if self._trace is not None:
            self._trace.finish(record)

    async def receive(self) -> Message:
        message = await self._receive()
        self._record.route = getattr(self._scope.get("route"), "path", self._record.route)  # known by now
        if message["type"] == "http.request":
            self._record.request_bytes += len(message.get("body", b""))
        return message

    @property
    def has_answered(self) -> bool:
        """Whether no other answer can be given any more."""
        return self.status is not None and self._waiting is None

    async def begin_waiting(self, error_event: Callable[[bytes], bytes]) -> WaitingStream:
        """Begin a stream before there is an answer, which continues it. error_event: as WaitingStream takes it."""
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
            self._record.response_bytes += len(message.get("body", b""))
        elif message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.request_id
            headers["request-id"] = self.request_id  # Anthropic's name of it
            if self._trace is not None and (traceresponse := self._trace.response_header) is not None:
                headers["traceresponse"] = traceresponse
            self._record.is_stream = headers.get("content-type", "").startswith(_STREAMS)
            headers["openai-processing-ms"] = str(round((time.monotonic() - self._arrival_s) * 1000))
            if self._record.was_not_taken:  # before it is told what is left
                self._settle_rate()
            for name, value in rate_headers(self._scope).items():
                headers[name] = value
            if self._context.drain.is_active:
                headers["connection"] = "close"  # the client's next request should find another server
        await self._send(message)

    def end(self) -> None:
        record = self._record
        record.route = getattr(self._scope.get("route"), "path", record.route)
        record.status = self.status if self.status is not None else CLIENT_GONE
        record.http_s = time.monotonic() - record.arrival_s
        self._context.metrics.count_http(record)
        self._settle_rate()
        record.release()

    def _settle_rate(self) -> None:
        """The request counts as one of its key's, unless the server had no room for it, or no engine."""
        if (account := caller_of(self._scope).account) is not None:
            account.end_request(self._scope["state"].get(_COUNTED_STATE), is_counted=not self._record.was_not_taken)


def _check_connection(scope: Scope) -> None:
    """Refuse what comes over a connection too many, but for probes: a full server is alive."""
    if REFUSED_STATE in scope["state"] and route_path(scope) not in PROBES:
        raise TooManyConnections(
            "too many connections are open, in all (--max-connections) or from this address "
            "(--max-connections-per-client); close some, or try again later"
        )


class AuthMiddleware:
    """Asks for a key on every path but OPEN_PATHS, if there are keys: a route added later is closed until it is listed
    there. A POST counts as a request of its key, unless the server has no room for it, or no engine."""

    def __init__(self, app: ASGIApp, ring: KeyRing, known_paths: frozenset[str]) -> None:
        """known_paths: of routes, for records of requests that do not come so far."""
        self._app = app
        self._ring = ring
        self._known_paths = known_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (path := route_path(scope)) not in OPEN_PATHS:
            try:
                self._admit(scope)
            except HeadraceError:
                if path in self._known_paths and (record := current_record()) is not None:
                    record.route = path
                raise
        await self._app(scope, receive, send)

    def _admit(self, scope: Scope) -> None:
        """Raises InvalidApiKey, ForeignName or RateLimited."""
        headers = Headers(scope=scope)
        caller = self._ring.find(_given_key(headers)) if self._ring.asks_for_keys else _anybody(scope)
        set_caller(scope, caller)
        is_request = scope["method"] == "POST"
        if (record := current_record()) is not None:
            record.key_name, record.is_usage = caller.name, is_request
        if is_request and caller.account is not None:
            scope["state"][_COUNTED_STATE] = caller.account.count_request()


def _anybody(scope: Scope) -> Caller:
    """Raises ForeignName."""
    if FOREIGN_NAME_STATE in scope["state"]:
        name = quote(host_name(Headers(scope=scope)))
        raise ForeignName(
            f"a program on the server's own machine asks for the host {name}, a name that a web page may have pointed "
            "here; ask for localhost, or start the server with --api-key, or with --allowed-hosts and the name"
        )
    return ANYBODY


def _given_key(headers: Headers) -> bytes:
    """A bearer token is OpenAI's way and most others'; x-api-key is Anthropic's."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        given = headers.get("x-api-key", "")
    return given.strip().encode("latin-1")


def set_caller(scope: Scope, caller: Caller) -> None:
    """Tell routes, and all that works for them, whose request it is."""
    scope["state"].update(caller=caller, owner=caller.owner)
    set_current_caller(caller)
