"""Frames of server-sent events."""

from typing import Any

import msgspec

_encode = msgspec.json.Encoder().encode


def frame(message: Any) -> bytes:
    """One event. JSON escapes line breaks, so a message is always one data line."""
    return b"data: " + _encode(message) + b"\n\n"
