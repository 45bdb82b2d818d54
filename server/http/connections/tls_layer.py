"""TlsLayer: TLS between a connection's transport and the protocol inside it.

asyncio's own TLS (`create_server(ssl=...)`) reports a connection to the protocol only after its handshake. Connections
in their handshake are then not counted, and a handshake may take 60 s. Here the protocol sees its connection
immediately, so that its limits on number and time hold for handshakes too. Flow control is the transport's: this layer
keeps no write buffer.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Iterable
from typing import Any, cast

from server.http.connections.transport_over import TransportOver

_READ_BYTES = 64 * 1024
_PLAIN_TEXT = b"this port speaks HTTPS; use https://\n"
_PLAIN_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s"
) % (len(_PLAIN_TEXT), _PLAIN_TEXT)


class TlsLayer(asyncio.Protocol):
    """TLS as a protocol of the raw transport: `inner` gets an unencrypted transport, and decrypted bytes."""

    def __init__(self, context: ssl.SSLContext, inner: asyncio.Protocol, on_failed: Callable[[], None]) -> None:
        """on_failed: called when a handshake fails, but not if the client leaves it unfinished."""
        self._inner = inner
        self._on_failed = on_failed
        self._received = ssl.MemoryBIO()  # encrypted bytes from the client
        self._to_send = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_side=True)
        self._is_open = False  # the handshake is done
        self._is_over = False  # close_notify is sent

    # --- called by the transport --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._inner.connection_made(_Inside(self, self._transport, self._tls))

    def connection_lost(self, exc: Exception | None) -> None:
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def data_received(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        if self._is_over:
            self._inner.data_received(data)  # still encrypted, and only counted
            return
        self._received.write(data)
        if not self._is_open:
            self._shake_hands()
        if self._is_open:
            self._read()

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as error:
            if error.reason == "HTTP_REQUEST":
                self._transport.write(_PLAIN_ANSWER)
            else:
                self._flush()  # the alert with the reason
            self._on_failed()
            self._transport.close()
        else:
            self._is_open = True
            self._flush()

    def _read(self) -> None:
        pieces = []
        is_over = False
        try:
            while piece := self._tls.read(_READ_BYTES):
                pieces.append(piece)
            is_over = True  # the client has closed its side
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            is_over = True
        self._flush()  # alerts, and answers to key updates
        if pieces:
            self._inner.data_received(b"".join(pieces))
        if is_over and not self.eof_received():
            self._transport.close()

    # --- called by the inner transport --------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        assert self._is_open, "nothing is written before the handshake"
        view = memoryview(data)
        while view:
            view = view[self._tls.write(view) :]
        self._flush()

    def close(self) -> None:
        """Send close_notify, and close once it is sent, without waiting for the client's close_notify."""
        if self._transport.is_closing():
            return
        self._say_over()
        self._transport.close()

    def write_eof(self) -> None:
        """Send close_notify and stop sending. Bytes received later are passed to `inner` undecrypted, to be counted."""
        self._say_over()
        self._transport.write_eof()

    def _say_over(self) -> None:
        if self._is_open and not self._is_over:
            with contextlib.suppress(ssl.SSLError):  # usually since the client has not sent close_notify
                self._tls.unwrap()
            self._flush()
        self._is_over = True

    def _flush(self) -> None:
        if data := self._to_send.read():
            self._transport.write(data)


class _Inside(TransportOver):
    """The transport that `inner` sees: unencrypted, and otherwise the raw transport."""

    def __init__(self, layer: TlsLayer, below: asyncio.Transport, tls: ssl.SSLObject) -> None:
        super().__init__(below)
        self._layer = layer
        self._tls = tls

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        match name:
            case "sslcontext":
                return self._tls.context
            case "ssl_object":
                return self._tls
            case "peercert":  # {} for a certificate that was not checked
                return self._tls.getpeercert()
        return self._below.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._below.is_closing():
            self._layer.write(bytes(data))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        self._layer.close()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._layer.write_eof()

    def abort(self) -> None:
        self._below.abort()

    def is_closing(self) -> bool:
        return self._below.is_closing()
