"""LingeringTransport: closes a connection so that its client reads the answer, although it is still sending.

If bytes arrive for a closed socket, the operating system resets the connection, and the client's system then drops
received bytes that the client has not read yet, usually the answer. So a lingering transport shuts down its
sending side, drops what it receives, and closes when the client does, or at the limits of LateBytes. nginx calls this a
lingering close.

open ──close, client is not sending───────────────────────────────> closed
 └─────close while the client sends──> lingering ──client's end, silence, limit──┘
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from server.http.connections.late_bytes import LateBytes
from server.http.connections.transport_over import TransportOver


class LingeringTransport(TransportOver):
    """A connection's transport that forwards to `below`, but lingers on `close`, with `is_closing` True."""

    def __init__(
        self,
        below: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        is_client_sending: Callable[[], bool],
        on_limit: Callable[[], None],
    ) -> None:
        """is_client_sending: whether a request is incomplete. on_limit: called if the client sends for too long."""
        super().__init__(below)
        self._is_client_sending = is_client_sending
        self._on_limit = on_limit
        self._late = LateBytes(loop, below.close, self._cut_off)
        self._is_lingering = False
        self.total_s: float | None = None  # if shorter than in LateBytes

    def close(self) -> None:
        if self._is_client_sending():
            self.linger()
        elif not self.is_closing():
            self._below.close()

    def linger(self) -> None:
        """Stop sending, and keep dropping what the client sends until it closes or a limit of LateBytes is reached."""
        if self.is_closing():
            return
        self._is_lingering = True
        try:
            self._below.write_eof()
        except OSError:  # the client has disconnected
            self._below.abort()
            return
        self._below.resume_reading()
        if self.total_s is None:
            self._late.begin()
        else:
            self._late.begin(self.total_s)

    def drop(self, num_bytes: int) -> None:
        """Count received bytes that are dropped while the transport lingers."""
        self._late.note(num_bytes)

    def end(self) -> None:
        """Close without lingering, or stop lingering."""
        self._late.stop()
        self._below.close()

    def abort(self) -> None:
        self._late.stop()
        self._below.abort()

    def _cut_off(self) -> None:
        self._on_limit()
        self._below.abort()

    def is_closing(self) -> bool:
        return self._is_lingering or self._below.is_closing()

    # --- forwarded to the transport below -----------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._is_lingering:
            self._below.write(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        if not self._is_lingering:
            self._below.writelines(list_of_data)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._below.get_extra_info(name, default)
