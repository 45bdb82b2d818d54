"""Incremental readers of the JSON that a model writes; they emit valid JSON even where the model's is not.

Models also write Python literals ('x', True, None, tuples, trailing commas), raw line breaks in strings, and escapes
that JSON does not have. Each has only one meaning and is emitted as JSON. Nothing is recursive, and each character is
read once.
"""

import json
import re
from collections.abc import Callable
from enum import Enum, auto

from server.tools.reading.text_reader import Steps, TextReader

Emit = Callable[[str], object]

_SPACE = re.compile(r"[ \t\r\n]+")
_SCALAR = re.compile(r"[-+.\w]+")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_WORDS = {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}
# Characters that are the same in a string of the text and in JSON.
_PLAIN = {
    '"': re.compile(r'[^"\\\x00-\x1f]+'),
    "'": re.compile(r"[^'\\\x00-\x1f]+"),
}
_HEX = re.compile(r"[0-9a-fA-F]")
_CLOSING = {"{": "}", "[": "]", "(": ")"}
_JSON_BRACKETS = {"(": "[", ")": "]"}


class _Next(Enum):
    """The kinds of JSON token that may come next."""

    VALUE = auto()
    ITEM_OR_END = auto()  # after "[", and after "," in it
    KEY_OR_END = auto()  # after "{", and after "," in it
    COLON = auto()
    COMMA_OR_END = auto()


# Reads a string, a number or a word, and emits the comma and the value as JSON, or returns False. The last argument:
# whether the value is a key.
ReadAtom = Callable[[TextReader, Emit, str, bool], Steps[bool]]


def read_value(reader: TextReader, emit: Emit, read_atom: ReadAtom | None = None) -> Steps[bool]:
    """Consume one value and emit it as JSON, piece by piece.

    Returns False if the text ends within the value, or cannot continue it; such text stays unread, and the emitted JSON
    is incomplete. read_atom: reads keys and scalars in place of `read_json_atom`, in formats with other notations.
    """
    read_atom = read_atom or read_json_atom
    closing: list[str] = []  # brackets that close the open ones, the next one last
    state = _Next.VALUE
    comma = ""  # a comma and the space after it, dropped if nothing follows
    while closing or state is not _Next.COMMA_OR_END:
        char = yield from reader.peek()
        if space := reader.take_run(_SPACE):
            if comma:
                comma += space
            elif closing:
                emit(space)
            continue
        if closing and char == closing[-1] and state not in (_Next.VALUE, _Next.COLON):
            emit(_JSON_BRACKETS.get(reader.take(), char))
            closing.pop()
            comma = ""
            state = _Next.COMMA_OR_END
        elif state is _Next.COMMA_OR_END and char == ",":
            comma = reader.take()
            state = _inside(closing[-1])
        elif state is _Next.COLON and char == ":":
            emit(reader.take())
            state = _Next.VALUE
        elif char in _CLOSING and state in (_Next.VALUE, _Next.ITEM_OR_END):
            emit(comma + _JSON_BRACKETS.get(reader.take(), char))
            comma = ""
            closing.append(_CLOSING[char])
            state = _inside(closing[-1])
        elif state in (_Next.VALUE, _Next.ITEM_OR_END, _Next.KEY_OR_END):
            if not (yield from read_atom(reader, emit, comma, state is _Next.KEY_OR_END)):
                return False
            comma = ""
            state = _Next.COLON if state is _Next.KEY_OR_END else _Next.COMMA_OR_END
        else:
            return False
    return True


def read_string(reader: TextReader) -> Steps[str | None]:
    """Consume a string and return its value; None if there is no string here, or if it is incomplete."""
    pieces: list[str] = []
    if (yield from reader.peek()) not in _PLAIN or not (yield from _read_quoted(reader, pieces.append)):
        return None
    text: str = json.loads("".join(pieces))
    return text


def read_arguments(reader: TextReader, emit: Emit) -> Steps[bool]:
    """Consume a call's arguments like read_value. A string that contains an object is read as that
    object, and null as {}."""
    yield from reader.skip_space()
    if (char := (yield from reader.peek())) in _CLOSING:
        return (yield from read_value(reader, emit))
    pieces: list[str] = []
    is_whole = yield from read_value(reader, pieces.append)
    value = "".join(pieces)
    if not is_whole:
        return False
    if value == "null":
        value = "{}"
    elif char in _PLAIN:
        inner = json.loads(value).strip() or "{}"
        value = (json_of(inner) or value) if inner.startswith("{") else value
    emit(value)
    return True


def json_of(text: str) -> str | None:
    """Return `text` as valid JSON if it is one value, perhaps with space around it; else None."""
    reader = TextReader()
    reader.feed(text.strip())
    reader.end()
    pieces: list[str] = []
    steps = read_value(reader, pieces.append)
    try:
        while True:
            next(steps)
    except StopIteration as stop:
        return "".join(pieces) if stop.value and reader.is_exhausted else None


def _inside(closing: str) -> _Next:
    return _Next.KEY_OR_END if closing == "}" else _Next.ITEM_OR_END


def read_json_atom(reader: TextReader, emit: Emit, comma: str, is_key: bool) -> Steps[bool]:
    """Read a string, a number, or a literal of JSON or Python such as true or None; the default ReadAtom."""
    if (yield from reader.peek()) in _PLAIN:
        emit(comma)
        return (yield from _read_quoted(reader, emit))
    if is_key:
        return False
    scalar = yield from reader.read_run(_SCALAR)
    if not _NUMBER.fullmatch(scalar):
        scalar = _WORDS.get(scalar, "")
    if scalar:
        emit(comma + scalar)
    return bool(scalar)


def _read_quoted(reader: TextReader, emit: Emit) -> Steps[bool]:
    quote = reader.take()
    emit('"')
    while char := (yield from reader.peek()):
        if plain := reader.take_run(_PLAIN[quote]):
            # A double quote in single quotes
            emit(plain if quote == '"' else plain.replace('"', '\\"'))
            continue
        reader.take()
        if char == quote:
            emit('"')
            return True
        if char == "\\":
            yield from _read_escape(reader, emit)
        else:
            emit(json.dumps(char)[1:-1])
    return False


def _read_escape(reader: TextReader, emit: Emit) -> Steps[None]:
    """Read and emit the escape after a backslash. A backslash that starts no escape of JSON is emitted as text."""
    char = yield from reader.peek()
    if not char:
        return
    if char in "xu":
        digits = 2 if char == "x" else 4
        letters = reader.take()
        while len(letters) <= digits and _HEX.match((yield from reader.peek())):
            letters += reader.take()
        is_whole = len(letters) == digits + 1
        emit(f"\\u{letters[1:]:0>4}" if is_whole else "\\\\" + letters)
    elif char in '"\\/bfnrt':
        emit("\\" + reader.take())
    elif char == "'":
        emit(reader.take())
    else:
        emit("\\\\")
