"""check_head: refuses heads that the parser lets through, oversized ones and ones that two servers could read
differently."""

import re

from starlette.types import Scope

from server.errors import AmbiguousRequest, HeadersTooLarge

_MAX_HEADERS = 200
_MAX_HEAD_BYTES = 64 * 1024  # of names, values and the request's target
_HOST = re.compile(
    rb"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._~%!$&'()*+,;=-]*)(:[0-9]*)?"
)  # RFC 3986's reg-name, or an address
_VERSIONS = ("1.0", "1.1")


def check_head(scope: Scope) -> None:
    """Raises HeadersTooLarge or AmbiguousRequest, after either of which the connection is closed."""
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
    """How long the body is must be said once, and in one way."""
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
