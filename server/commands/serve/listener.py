"""The listening socket, bound before models are loaded, so that a port in use is reported early."""

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from engine.errors import StartupError
from server.config.server import ServerConfig
from server.http.connections.peer import is_loopback

UNIX_SCHEME = "unix:"  # only in headrace's own URLs

_REMEDIES = {
    errno.EADDRINUSE: "another program listens there; stop it, or choose another --port (0 picks a free one)",
    errno.EADDRNOTAVAIL: "no interface of this machine has that address; choose another --host",
    errno.EACCES: "ports below 1024 need privileges; choose another --port",
}
BACKLOG = 2048  # connections waiting to be accepted
_KEEPALIVE_IDLE_S = 30  # without a packet until the system probes the client
_KEEPALIVE_INTERVAL_S = 10
_KEEPALIVE_PROBES = 3
_UNACKED_SURPLUS_S = 5  # beyond --http-write-timeout


def is_for_this_machine(host: str) -> bool:
    """Whether a socket that listens on `host` can only be reached from this machine."""
    return host == "localhost" or is_loopback(host)


@contextlib.contextmanager
def listening(config: ServerConfig) -> Iterator[socket.socket]:
    """Yield the listening socket, TCP or Unix as configured. Raises StartupError."""
    path = config.network.uds
    if path is None:
        with listen(config.host, config.port, unacked_s=config.http_write_timeout + _UNACKED_SURPLUS_S) as sock:
            yield sock
    else:
        with listen_unix(Path(path), int(config.network.uds_mode, 8)) as sock:
            yield sock


def listen(host: str, port: int, *, unacked_s: float | None = None) -> socket.socket:
    """Return a TCP socket that listens on host:port. Raises StartupError.

    The socket listens immediately, since Linux lets several sockets with SO_REUSEADDR bind a port until one listens.
    unacked_s: TCP_USER_TIMEOUT, after which the system drops a connection whose client acknowledges or reads nothing.
    The server's own write timeout detects such clients only once the system's send buffer, perhaps megabytes, is full.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise StartupError(f"cannot listen on {host}: {error.strerror}; choose another --host") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _notice_lost_clients(sock, unacked_s)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        remedy = _REMEDIES.get(error.errno or 0, error.strerror)
        raise StartupError(f"cannot listen on {host_port(host, port)}: {remedy}") from error
    return sock


def _notice_lost_clients(sock: socket.socket, unacked_s: float | None) -> None:
    """Set keepalive and TCP_USER_TIMEOUT where the system has them. Accepted sockets inherit the options."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    wanted = {
        "TCP_KEEPIDLE": _KEEPALIVE_IDLE_S,
        "TCP_KEEPINTVL": _KEEPALIVE_INTERVAL_S,
        "TCP_KEEPCNT": _KEEPALIVE_PROBES,
    }
    if unacked_s is not None:
        wanted["TCP_USER_TIMEOUT"] = round(unacked_s * 1000)
    for name, value in wanted.items():
        if (number := getattr(socket, name, None)) is not None:
            sock.setsockopt(socket.IPPROTO_TCP, number, value)


@contextlib.contextmanager
def listen_unix(path: Path, mode: int) -> Iterator[socket.socket]:
    """Yield a socket that listens at `path`, and delete its file at the end of the context. Raises StartupError.

    An existing socket file is replaced if no process listens on it, as after a server was killed.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with sock:
        try:
            _remove_stale(path)
            before = os.umask(0o177)  # only the owner has access until chmod
            try:
                sock.bind(str(path))
            finally:
                os.umask(before)
            made = path.stat()
            path.chmod(mode)
            sock.listen(BACKLOG)
        except OSError as error:
            reason = error.strerror or str(error)  # a path that is too long has no errno
            raise StartupError(f"cannot listen on {path}: {reason}; choose another --uds") from error
        try:
            yield sock
        finally:
            with contextlib.suppress(OSError):
                if os.path.samestat(path.stat(), made):  # it may already be the next server's
                    path.unlink()


def _remove_stale(path: Path) -> None:
    """Remove a socket file on which no process listens. Raises StartupError if it is in use or not a socket."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise StartupError(f"cannot listen on {path}: it exists and is not a socket; choose another --uds")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError:  # such as a full backlog
            pass
    raise StartupError(f"cannot listen on {path}: another program listens there; stop it, or choose another --uds")


def host_port(host: str, port: int) -> str:
    """Return "host:port" in the form of URLs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def url_of(sock: socket.socket, *, has_tls: bool = False) -> str:
    """Return the server's URL for clients on this machine; unix:PATH for a Unix socket."""
    if sock.family == socket.AF_UNIX:
        return f"{UNIX_SCHEME}{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    scheme = "https" if has_tls else "http"
    return f"{scheme}://" + host_port({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)
