"""Connection: one client's HTTP/1.1 connection, with limits on its time and size that uvicorn does not have.

silent or in a head ──head complete──> in a body ──body complete──> between requests
        ^ head_s                     (app's time-out)                   │ keep-alive
        └───────────────────────────── first byte ──────────────────────┘
"""

import asyncio
import enum
from asyncio.events import TimerHandle
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from engine.errors import HeadraceError, InvalidRequest
from server.errors import HeadersTooLarge, RequestTimeout, describe_error
from server.http.connections.certificates import SUBJECT_STATE, subject_of
from server.http.connections.chunk_writer import CHUNKS_STATE, ChunkWriter
from server.http.connections.connection_limits import CloseReason, ConnectionLimits
from server.http.connections.late_bytes import LateBytes
from server.http.connections.lingering import LingeringTransport
from server.http.connections.open_connections import REFUSED_STATE, Admission, OpenConnections
from server.http.connections.proxies import TrustedProxies
from server.http.connections.slow_reader import SlowReader
from server.http.connections.upgrades import new_parser, without_upgrade

PEER_STATE = "peer"  # in a scope's state: the connection's other end; `client` may come from a proxy's header

_MAX_HEAD_BYTES = 128 * 1024  # of an incomplete head; RequestMiddleware is stricter with complete heads
_MAX_HEADER_LINES = 400  # trailers included
_MAX_CHUNK_OVERHEAD = 16  # bytes on the wire per byte of a body, beyond the size of a head
_MAX_OFFERS = 8  # offers of another protocol in one piece of data
_REFUSED_HEAD_S = 2.0  # for a surplus connection to send its request, and again for the rest of it after the answer


class _Section(enum.Enum):
    """Part of a request to which the next received byte belongs."""

    HEAD = "head"
    BODY = "body"
    BETWEEN = "between"


class Connection(HttpToolsProtocol):
    """Subclass of uvicorn's HTTP/1.1 protocol that enforces the limits. Parsing and answering remain uvicorn's."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: ConnectionLimits,
        connections: OpenConnections,
        trusted: TrustedProxies,
        on_closed: Callable[[CloseReason], None],
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self._open = connections
        self._trusted = trusted
        self._on_closed = on_closed
        self._admission = Admission.SERVED
        self._section = _Section.HEAD
        self._head_bytes = 0  # of an incomplete head
        self._raw_body_bytes = 0  # of an incomplete body, from the first piece of data after its head
        self._body_bytes = 0
        self._is_head_too_large = False
        self._is_counted = False  # whether the metric of closed connections has counted it
        self._head_timer: TimerHandle | None = None

    # --- called by the transport --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._ending = LingeringTransport(
            transport,
            self.loop,
            is_client_sending=lambda: self._section is _Section.BODY,
            on_limit=lambda: self._count(CloseReason.BODY_TIMEOUT),
        )
        self._slow_reader = SlowReader(self.loop, self._ending, self._limits.write_s, self._end_slow_reader)
        self._late_body = LateBytes(self.loop, self._end_late_body, self._end_late_body)  # until the next request
        super().connection_made(self._ending)
        transport.set_write_buffer_limits(high=0)  # writing is paused whenever the client does not keep up
        self.app_state = {**self.app_state, PEER_STATE: self.client}
        address = self.client[0] if self.client is not None else None
        self._counted_as = None if address is None or self._trusted.trusts(address) else address
        self._admission = self._open.enter(self._counted_as)
        if self._admission is Admission.DROPPED:
            self._count(CloseReason.LIMIT)
            transport.abort()
            return
        if self._admission is Admission.REFUSED:
            self.app_state = {**self.app_state, REFUSED_STATE: True}
            self._ending.total_s = _REFUSED_HEAD_S
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._open.leave(self._counted_as)
        self._stop_head_timer()
        self._slow_reader.stop()
        self._late_body.stop()
        self._ending.end()
        if isinstance(exc, TimeoutError):  # from the system: see server/commands/serve/listener.py
            self._count(CloseReason.WRITE_TIMEOUT)
        super().connection_lost(exc)

    def shutdown(self) -> None:
        super().shutdown()
        if self._ending.is_closing():
            self._ending.end()  # a server that stops does not wait for clients that have their answer

    def data_received(self, data: bytes) -> None:
        if self._ending.is_closing():
            self._ending.drop(len(data))
            return
        self._late_body.note(len(data))
        if self._section is _Section.BETWEEN:
            self._begin_head()
        if self._section is _Section.HEAD:
            self._head_bytes += len(data)
        else:
            self._raw_body_bytes += len(data)
        self._unset_keepalive_if_required()
        self._feed(data)
        if self._section is _Section.HEAD and self._head_bytes > _MAX_HEAD_BYTES:
            self._refuse_head()
        elif self._raw_body_bytes > _MAX_CHUNK_OVERHEAD * self._body_bytes + _MAX_HEAD_BYTES:
            self._refuse_message("the lines between the body's chunks are too long")

    def _feed(self, data: bytes) -> None:
        """Feed the parser. At an Upgrade, where the parser stops, remove the Upgrade from the head and continue."""
        try:
            for _ in range(_MAX_OFFERS):
                try:
                    self.parser.feed_data(data)
                    return
                except httptools.HttpParserUpgrade as upgrade:
                    method, version = self.parser.get_method(), self.parser.get_http_version()
                    rest = data[upgrade.args[0] :]
                if method == b"CONNECT":
                    break
                self.parser = new_parser(self)
                data = without_upgrade(method, self.url, version, self.headers) + rest
            self._refuse_message("this server speaks no other protocol, and connects to no other server")
        except httptools.HttpParserError:
            if self._is_head_too_large:
                self._refuse_head()
            else:
                self._refuse_message("the request is not valid HTTP/1.1")

    def pause_writing(self) -> None:
        super().pause_writing()
        self._slow_reader.begin()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._slow_reader.stop()

    # --- called by the parser -----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._section is not _Section.HEAD:
            self._begin_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if len(self.headers) > _MAX_HEADER_LINES:
            self._is_head_too_large = True
            raise HeadersTooLarge  # makes the parser stop

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():  # `_feed` feeds this head again, without the offer
            return
        if self.scheme == "https" and SUBJECT_STATE not in self.app_state:
            subject = subject_of(self.transport.get_extra_info("peercert"))
            self.app_state = {**self.app_state, SUBJECT_STATE: subject}
            self.scope["state"][SUBJECT_STATE] = subject
        self._section, self._head_bytes = _Section.BODY, 0
        self._raw_body_bytes = self._body_bytes = 0
        self._stop_head_timer()
        super().on_headers_complete()
        self.scope["state"][CHUNKS_STATE] = ChunkWriter(self.cycle)  # the application starts later
        if self._admission is Admission.REFUSED:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._section, self._raw_body_bytes = _Section.BETWEEN, 0
        self._late_body.stop()
        super().on_message_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self._unset_keepalive_if_required()  # the rest of the body stopped the timer that started with the answer
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._admission is Admission.REFUSED:
            self._count(CloseReason.LIMIT)
        is_own_body = self._section is _Section.BODY and self.cycle.response_complete  # not that of a pipelined request
        if is_own_body and not self._ending.is_closing():
            self._late_body.begin()

    # --- limits -------------------------------------------------------------------------------------------------------

    def _begin_head(self) -> None:
        self._section, self._head_bytes = _Section.HEAD, 0
        head_s = self._limits.head_s
        self._set_head_timer(head_s if self._is_served else min(head_s, _REFUSED_HEAD_S))

    @property
    def _is_served(self) -> bool:
        return self._admission is Admission.SERVED

    @property
    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _end_late_head(self) -> None:
        if self._is_answering:  # the request before; the next one may take as long
            self._set_head_timer(self._limits.head_s)
            return
        self._count(CloseReason.HEADER_TIMEOUT if self._is_served else CloseReason.LIMIT)
        if self._head_bytes:
            self._end(RequestTimeout(f"the head was not complete after {self._limits.head_s:g} s"))
        else:
            self.transport.close()

    def _end_late_body(self) -> None:
        self._count(CloseReason.BODY_TIMEOUT)
        self._ending.abort()

    def _end_slow_reader(self) -> None:
        self._count(CloseReason.WRITE_TIMEOUT)
        self._ending.abort()

    def _count(self, reason: CloseReason) -> None:
        if not self._is_counted:
            self._is_counted = True
            self._on_closed(reason)

    def _refuse_head(self) -> None:
        self._count(CloseReason.HEADER_SIZE)
        self._end(
            HeadersTooLarge(f"the head has more than {_MAX_HEADER_LINES} lines or {_MAX_HEAD_BYTES} bytes so far")
        )

    def _refuse_message(self, why: str) -> None:
        self._count(CloseReason.INVALID)
        self._end(InvalidRequest(why))

    def _end(self, error: HeadraceError) -> None:
        """Answer an incomplete request with the error, if an answer is still possible, and close the connection."""
        if self._ending.is_closing():
            return
        if not self._may_answer:
            self._ending.end()
            return
        reply = describe_error(error, "")
        body = reply.body()
        head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self._ending.write(STATUS_LINE[reply.status] + head.encode() + body)
        if self._section is _Section.BODY:
            self.cycle.disconnected = True  # the application sees a disconnect, and what it sends is dropped
            self.cycle.message_event.set()
        self._ending.linger()

    @property
    def _may_answer(self) -> bool:
        """Whether an error can be sent as the response to the request being read: all earlier requests are answered,
        and no other response to this one has started."""
        if self._section is _Section.BODY:
            return not self.cycle.response_started and not self.pipeline
        return not self._is_answering

    def _set_head_timer(self, seconds: float) -> None:
        self._stop_head_timer()
        self._head_timer = self.loop.call_later(seconds, self._end_late_head)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
