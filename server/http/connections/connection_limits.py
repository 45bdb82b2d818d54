"""ConnectionLimits: time limits of one connection. CloseReason: the reason why the server closed a connection."""

import enum
from dataclasses import dataclass


class CloseReason(enum.StrEnum):
    """Reason why the server closed a connection that its client did not close."""

    LIMIT = "limit"  # --max-connections, --max-connections-per-client
    HEADER_TIMEOUT = "header_timeout"
    HEADER_SIZE = "header_size"
    INVALID = "invalid"  # not HTTP/1.1
    BODY_TIMEOUT = "body_timeout"  # of the rest of a body after its answer, or the rest was too large
    WRITE_TIMEOUT = "write_timeout"
    TLS_HANDSHAKE = "tls_handshake"  # it failed


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Time limits of one connection, in seconds."""

    head_s: float  # from the connection, or the first byte of a later request, to the end of its head
    write_s: float  # longest time in which the client takes no byte while bytes wait to be sent
