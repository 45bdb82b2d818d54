"""Inputs of custom tools, inside the arguments of the functions that stand for the tools."""

import json
import re
from typing import Any

FIELD = "input"  # the function's one argument

_BEGINNING = re.compile(r'\s*\{\s*"' + FIELD + r'"\s*:\s*"')
_PLAIN = re.compile(r'[^"\\]+')
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def arguments_of(text: str) -> str:
    """Return the arguments of a call with this input."""
    return json.dumps({FIELD: text}, ensure_ascii=False)


def parameters_of(pattern: str | None) -> dict[str, Any]:
    """Return the parameters of the function. pattern: a regular expression that must match the whole input."""
    limit = {} if pattern is None else {"pattern": f"^(?:{pattern})$"}
    return {
        "type": "object",
        "properties": {FIELD: {"type": "string", **limit}},
        "required": [FIELD],
        "additionalProperties": False,
    }


class CustomInput:
    """Reads the arguments' JSON piece by piece, and returns the input's text as it comes.

    Arguments that are not an object with an input first count as the input itself, so nothing that the model wrote is
    lost.
    """

    def __init__(self) -> None:
        self._pending = ""  # not yet decoded
        self._is_within = False  # within the string
        self._is_over = False
        self._high: int | None = None  # the first half of a surrogate pair

    def push(self, text: str) -> str:
        if self._is_over:
            return ""
        self._pending += text
        if not self._is_within:
            opening = _BEGINNING.match(self._pending)
            if opening is None:
                return ""
            self._is_within = True
            self._pending = self._pending[opening.end() :]
        return self._decoded()

    def finish(self) -> str:
        """Return the rest: arguments of another form, or half a surrogate pair at the end."""
        if not self._is_within:
            rest, self._pending = self._pending, ""
            return rest
        return self._flushed()

    def _decoded(self) -> str:
        """Return the complete part of the string in `_pending`."""
        decoded: list[str] = []
        position, pending = 0, self._pending
        while position < len(pending):
            if (plain := _PLAIN.match(pending, position)) is not None:
                decoded.append(self._flushed() + plain[0])
                position = plain.end()
            elif pending[position] == '"':
                decoded.append(self._flushed())
                self._is_over = True
                break
            else:
                length = 6 if pending[position + 1 : position + 2] == "u" else 2
                if position + length > len(pending):
                    break
                decoded.append(self._escaped(pending[position + 1 : position + length]))
                position += length
        self._pending = "" if self._is_over else pending[position:]
        return "".join(decoded)

    def _escaped(self, escape: str) -> str:
        if not escape.startswith("u"):
            return self._flushed() + _ESCAPES.get(escape, escape)
        unit = int(escape[1:], 16)
        if 0xDC00 <= unit < 0xE000 and self._high is not None:
            pair = chr(0x10000 + ((self._high - 0xD800) << 10) + (unit - 0xDC00))
            self._high = None
            return pair
        before = self._flushed()
        if 0xD800 <= unit < 0xDC00:
            self._high = unit
            return before
        return before + ("\ufffd" if 0xDC00 <= unit < 0xE000 else chr(unit))

    def _flushed(self) -> str:
        """Return a replacement for half a surrogate pair without its other half."""
        half, self._high = self._high, None
        return "" if half is None else "\ufffd"
