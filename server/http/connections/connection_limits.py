"""ConnectionLimits of a connection, and CloseReason: which limit, or what else, ended it."""

import enum
from dataclasses import dataclass


class CloseReason(enum.StrEnum):
    """Why the server ended a connection that its client would have gone on with."""

    LIMIT = "limit"  # --max-connections, --max-connections-per-client
    HEADER_TIMEOUT = "header_timeout"
    HEADER_SIZE = "header_size"
    INVALID = "invalid"  # no HTTP/1.1
    BODY_TIMEOUT = "body_timeout"  # of a body that came after its answer, or was too large for that
    WRITE_TIMEOUT = "write_timeout"
    TLS_HANDSHAKE = "tls_handshake"  # that failed


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Times in seconds."""

    head_s: float  # from the connection, or the first byte of a later request, to the end of its head
    write_s: float  # without a byte taken by the client, while some wait to be sent
