"""ServiceManager: reports the server's state to systemd by the protocol of sd_notify(3), for units of Type=notify.

Each message is one datagram of lines NAME=value to the socket in NOTIFY_SOCKET. Without it, nothing is sent.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import MutableMapping

logger = logging.getLogger(__name__)

_US_PER_S = 1_000_000
_PULSES_PER_LIMIT = 3  # so that one may be late and one lost


class ServiceManager:
    """A client of the service manager that started this process; sends nothing if there is none."""

    def __init__(self, address: str | None, watchdog_s: float | None) -> None:
        """address: path of a Unix socket; a leading @ means the abstract namespace. watchdog_s: longest allowed time
        between two watchdog messages; None for no watchdog."""
        self._watchdog_s = watchdog_s
        self._socket: socket.socket | None = None
        if address is not None:
            self._connect(address)

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> "ServiceManager":
        """Create from systemd's variables, and remove them from `environ`, so that child processes send nothing."""
        address = environ.pop("NOTIFY_SOCKET", None)
        limit_us = environ.pop("WATCHDOG_USEC", None)
        pid = environ.pop("WATCHDOG_PID", None)
        is_for_us = limit_us is not None and limit_us.isdecimal() and pid in (None, str(os.getpid()))
        return cls(address, int(limit_us) / _US_PER_S if is_for_us and limit_us is not None else None)

    def _connect(self, address: str) -> None:
        path = "\0" + address[1:] if address.startswith("@") else address
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.setblocking(False)  # a manager that does not read must not stop the server
        try:
            sock.connect(path)
        except OSError as error:
            sock.close()
            logger.warning("cannot notify the service manager at %s (NOTIFY_SOCKET): %s", address, error.strerror)
            return
        self._socket = sock

    def loading(self, model: str) -> None:
        self._send(f"STATUS=Loading {model}")

    def ready(self, url: str) -> None:
        """Report that startup is complete and requests are served at `url`."""
        self._send("READY=1", f"STATUS=Serving at {url}")

    def stopping(self) -> None:
        """Report that the server is shutting down."""
        self._send("STOPPING=1", "STATUS=Finishing running requests")

    async def pulse(self) -> None:
        """Send watchdog messages from the event loop until canceled; if the loop hangs, the manager kills the
        server."""
        if self._socket is None or not self._watchdog_s:
            return
        while True:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self._watchdog_s / _PULSES_PER_LIMIT)

    def _send(self, *lines: str) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # the manager may be gone, or its buffer full
                self._socket.send("\n".join(lines).encode())

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
