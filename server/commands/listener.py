"""The listening socket, bound before anything slow happens, so that a taken port costs no model load."""

import errno
import socket

from engine.errors import StartupError

_REMEDIES = {
    errno.EADDRINUSE: "another program listens there; stop it, or choose another --port (0 picks a free one)",
    errno.EADDRNOTAVAIL: "no interface of this machine has that address; choose another --host",
    errno.EACCES: "ports below 1024 need privileges; choose another --port",
}


def listen(host: str, port: int, backlog: int = 2048) -> socket.socket:
    """A TCP socket that listens on host:port. Raises StartupError.

    It listens already: Linux lets two sockets with SO_REUSEADDR bind one port until one of them listens.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise StartupError(f"cannot listen on {host}: {error.strerror}; choose another --host") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        remedy = _REMEDIES.get(error.errno or 0, error.strerror)
        raise StartupError(f"cannot listen on {host_port(host, port)}: {remedy}") from error
    return sock


def host_port(host: str, port: int) -> str:
    """host:port as a URL holds it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def url_of(sock: socket.socket) -> str:
    """The URL to call; for a socket on every interface, the one that works on this machine."""
    host, port = sock.getsockname()[:2]
    return "http://" + host_port({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)
