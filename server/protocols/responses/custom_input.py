"""Custom tools: the model calls each as a function, whose one argument is the tool's free-form input."""

import json
import re
from typing import Any

FIELD = "input"  # the function's one argument

_BEGINNING = re.compile(r'\s*\{\s*"' + FIELD + r'"\s*:\s*"')
_WHOLE = re.compile(r'(?:[^"\\]|\\[^u]|\\u[0-9a-fA-F]{4})*+')  # of a string's text, without an escape that is cut off


def arguments_of(text: str) -> str:
    """Return the JSON arguments of the function for a custom tool's input."""
    return json.dumps({FIELD: text}, ensure_ascii=False)


def parameters_of(pattern: str | None) -> dict[str, Any]:
    """Return the JSON schema of the function for a custom tool. pattern: regex that the whole input must match."""
    limit = {} if pattern is None else {"pattern": f"^(?:{pattern})$"}
    return {
        "type": "object",
        "properties": {FIELD: {"type": "string", **limit}},
        "required": [FIELD],
        "additionalProperties": False,
    }


class CustomInput:
    """Decodes a custom tool's input from the function's JSON arguments as they stream.

    Arguments that do not begin with {"input": " are themselves taken as the input, so that nothing that the model wrote
    is lost.
    """

    def __init__(self) -> None:
        self._pending = ""  # not yet decoded
        self._is_within = False  # within the string
        self._is_over = False
        self._half = ""  # the first half of a surrogate pair

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
        """Return the rest of the input: all arguments if they do not begin with {"input": ", else "", or U+FFFD for an
        unpaired surrogate at the end."""
        rest = _joined(self._half) if self._is_within else self._pending
        self._pending = self._half = ""
        return rest

    def _decoded(self) -> str:
        """Decode the pending part of the JSON string, up to an incomplete escape, and return it."""
        whole = _WHOLE.match(self._pending)
        assert whole is not None, "the pattern matches an empty text"
        text: str = self._half + json.loads(f'"{whole[0]}"', strict=False)
        self._pending = self._pending[whole.end() :]
        self._is_over = self._pending.startswith('"')
        self._half = text[-1:] if "\ud800" <= text[-1:] < "\udc00" and not self._is_over else ""
        return _joined(text.removesuffix(self._half))


def _joined(text: str) -> str:
    """Return the text with surrogate pairs joined, and U+FFFD in place of each unpaired surrogate."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
