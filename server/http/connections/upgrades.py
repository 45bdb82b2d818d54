"""Requests with an Upgrade header: the header is removed, and the request is served as HTTP/1.1.

Java's HTTP client offers HTTP/2 with its first request, even if that has a body. After such a head, the parser treats
the next bytes as HTTP/2, not as the body. RFC 9110 lets a server ignore the offer and answer the request.
"""

from collections.abc import Iterable

import httptools

_OFFER = frozenset({b"upgrade", b"http2-settings"})


def new_parser(protocol: object) -> httptools.HttpRequestParser:
    """Return a fresh parser for a connection whose parser has stopped at an Upgrade."""
    parser = httptools.HttpRequestParser(protocol)
    parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does; bytes after a close are ignored
    return parser


def without_upgrade(method: bytes, target: bytes, version: str, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the request's head without the Upgrade. headers: with names in lower case."""
    lines = [b"%s %s HTTP/%s" % (method, target, version.encode())]
    for name, value in headers:
        if name == b"connection":
            tokens = [token.strip() for token in value.split(b",")]
            value = b", ".join(token for token in tokens if token.lower() not in _OFFER)
            if not value:
                continue
        if name not in _OFFER:
            lines.append(name + b": " + value)
    return b"\r\n".join(lines) + b"\r\n\r\n"
