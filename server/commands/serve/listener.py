"""The listening socket, bound before anything slow happens, so that a taken port costs no model load."""

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

UNIX_SCHEME = "unix:"  # of our URLs alone

_REMEDIES = {
    errno.EADDRINUSE: "another program listens there; stop it, or choose another --port (0 picks a free one)",
    errno.EADDRNOTAVAIL: "no interface of this machine has that address; choose another --host",
    errno.EACCES: "ports below 1024 need privileges; choose another --port",
}
BACKLOG = 2048  # connections that wait to be accepted
_KEEPALIVE_IDLE_S = 30  # without a packet, after which the system asks whether the client is still there
_KEEPALIVE_INTERVAL_S = 10
_KEEPALIVE_PROBES = 3
_UNACKED_SURPLUS_S = 5  # beyond --http-write-timeout


def is_for_this_machine(host: str) -> bool:
    """Whether only this machine reaches what listens on `host`."""
    return host == "localhost" or is_loopback(host)


@contextlib.contextmanager
def listening(config: ServerConfig) -> Iterator[socket.socket]:
    """The socket that the options ask for. Raises StartupError."""
    path = config.network.uds
    if path is None:
        with listen(config.host, config.port, unacked_s=config.http_write_timeout + _UNACKED_SURPLUS_S) as sock:
            yield sock
    else:
        with listen_unix(Path(path), int(config.network.uds_mode, 8)) as sock:
            yield sock


def listen(host: str, port: int, *, unacked_s: float | None = None) -> socket.socket:
    """A TCP socket that listens on host:port. Raises StartupError.

    It listens already: Linux lets two sockets with SO_REUSEADDR bind one port until one of them listens.
    unacked_s: after which the system gives up a connection whose client acknowledges nothing, or takes nothing of what
    is sent. Our own limit sees the second only once the system's buffers are full, which may be megabytes later.
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
    """A client whose machine or network is gone says nothing. Accepted sockets inherit these; not every system has all
    of them."""
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
    """A socket that listens at `path`, whose file is gone with the context. Raises StartupError.

    A file there is replaced if it is a socket at which nobody listens, as a server that was killed leaves it.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with sock:
        try:
            _remove_stale(path)
            before = os.umask(0o177)  # until chmod it is the owner's alone
            try:
                sock.bind(str(path))
            finally:
                os.umask(before)
            made = path.stat()
            path.chmod(mode)
            sock.listen(BACKLOG)
        except OSError as error:
            reason = error.strerror or str(error)  # a path too long has no number
            raise StartupError(f"cannot listen on {path}: {reason}; choose another --uds") from error
        try:
            yield sock
        finally:
            with contextlib.suppress(OSError):
                if os.path.samestat(path.stat(), made):  # it may be the next server's by now
                    path.unlink()


def _remove_stale(path: Path) -> None:
    """Raises StartupError for a file that is no socket, or one at which a program listens."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise StartupError(f"cannot listen on {path}: it is a file or folder and no socket; choose another --uds")
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
    """host:port as a URL holds it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def url_of(sock: socket.socket, *, has_tls: bool = False) -> str:
    """The URL to call; for a socket on every interface, the one that works on this machine; of a
    Unix socket, unix:PATH."""
    if sock.family == socket.AF_UNIX:
        return f"{UNIX_SCHEME}{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    scheme = "https" if has_tls else "http"
    return f"{scheme}://" + host_port({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)
