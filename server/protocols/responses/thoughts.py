"""Thoughts in `encrypted_content`, which some clients send back where they drop the text itself.

It is no secret: this server gives clients the thought in clear beside it. It is the text in base64, behind a mark by
which other servers' contents, which nobody here can read, are told from our own.
"""

import base64
import binascii

_MARK = "headrace1:"


def encode_thought(text: str) -> str:
    return _MARK + base64.b64encode(text.encode()).decode()


def decode_thought(encoded: str) -> str | None:
    """None: it is not of this server."""
    if not encoded.startswith(_MARK):
        return None
    try:
        return base64.b64decode(encoded.removeprefix(_MARK), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
