"""Thoughts in `encrypted_content`, which some clients send back in place of the text.

Nothing is secret: the server also sends the thought in clear. The content is base64 of the text after a mark that
distinguishes it from other servers' contents, which cannot be read here.
"""

import base64
import binascii

_MARK = "headrace1:"


def encode_thought(text: str) -> str:
    return _MARK + base64.b64encode(text.encode()).decode()


def decode_thought(encoded: str) -> str | None:
    """Return the thought in `encrypted_content`; None if it is not from this server."""
    if not encoded.startswith(_MARK):
        return None
    try:
        return base64.b64decode(encoded.removeprefix(_MARK), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
