"""parse_json: strict, size-limited parsing of a request body, with errors that name the field."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from engine.errors import InvalidRequest
from server.schemas.base import Location, path_text

MAX_CONTAINERS = 1 << 16  # objects and lists in a body; each costs microseconds and half a kilobyte
MAX_VALUES = 1 << 21  # values followed by a comma, such as a prompt's token ids
MAX_DEPTH = 64  # nested objects and lists, which templates and validators process recursively

_MAX_SEARCHED = 1 << 16  # bytes, about 50 ms; in longer bodies, the field of an error is not determined
_BODY = "the body"
_MAX_SHOWN = 40  # characters of a client's token in a message

# msgspec refuses NaN, infinities, numbers beyond float64 and lone surrogates.
_decode = msgspec.json.Decoder().decode
# A string without an end matches too, since texts full of quotes would otherwise take quadratic time.
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}:,]|[^\s\[\]{}:,"]+', re.DOTALL)
_STRUCTURE = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{,]', re.DOTALL)
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_json(data: bytes, what: str = _BODY) -> Any:
    """Parse JSON within MAX_DEPTH, MAX_CONTAINERS and MAX_VALUES. what: what `data` is called in errors. Raises
    InvalidRequest."""
    _check_size(data, what)
    try:
        value = _decode(data)
    except RecursionError:
        raise InvalidRequest(
            f"{what} is nested far more than {MAX_DEPTH} levels deep; the limit is {MAX_DEPTH}"
        ) from None
    except ValueError as error:  # msgspec's errors and invalid UTF-8
        raise _explain(data, error, what) from None
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and (depth := nesting_depth(value)) > MAX_DEPTH:
        raise InvalidRequest(f"{what} is nested {depth} levels deep; the limit is {MAX_DEPTH}")
    return value


def _check_size(data: bytes, what: str) -> None:
    """Raise InvalidRequest for too many objects, lists or values, before they are parsed.

    Brackets in strings do not count, so a body with many brackets is scanned, which takes up to a second.
    """
    if data.count(b"[") + data.count(b"{") <= MAX_CONTAINERS and data.count(b",") <= MAX_VALUES:
        return
    num_containers = num_values = 0
    for match in _STRUCTURE.finditer(data):
        token = data[match.start()]
        num_containers += token in b"[{"
        num_values += token == ord(",")
        if num_containers > MAX_CONTAINERS:
            remedy = "send fewer messages, parts or options, and join small texts" if what == _BODY else "give fewer"
            raise InvalidRequest(
                f"{what} has more than {MAX_CONTAINERS:,} objects and lists, which is the limit; {remedy}"
            )
        if num_values > MAX_VALUES:
            raise InvalidRequest(f"{what} has more than {MAX_VALUES:,} values, which is the limit; send fewer")


def nesting_depth(value: Any) -> int:
    """Return the number of nested levels of objects and lists."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return depth


def _explain(data: bytes, error: ValueError, what: str) -> InvalidRequest:
    """Return an error that names the field in which `data` is not valid JSON. error: the decoder's error."""
    try:
        text = data.decode()
    except UnicodeDecodeError as fault:
        return _explain_utf8(data, fault, what)
    if len(data) <= _MAX_SEARCHED:
        for path, token, _ in _strings_and_scalars(text):
            if (problem := _problem(token)) is not None:
                where = path_text(path)
                return InvalidRequest(
                    f"{what} is not valid JSON: {where or what} {problem}", param=where or None, location=path
                )
    reason = str(error).removeprefix("JSON is malformed: ")
    return InvalidRequest(f"{what} is not valid JSON: {reason}")


def _explain_utf8(data: bytes, fault: UnicodeDecodeError, what: str) -> InvalidRequest:
    where = ""
    if len(data) <= _MAX_SEARCHED:
        offset = len(data[: fault.start].decode())
        tokens = _strings_and_scalars(data.decode(errors="replace"))
        where = next((path_text(path) for path, token, start in tokens if start <= offset < start + len(token)), "")
    return InvalidRequest(
        f"{what} is not valid UTF-8: byte 0x{data[fault.start]:02x} at position {fault.start}"
        f"{f', in {where}' if where else ''} ({fault.reason})",
        param=where or None,
    )


def _strings_and_scalars(text: str) -> Iterator[tuple[Location, str, int]]:
    """Yield each string, number and literal in `text`, with the path of its field and its offset.

    The text need not be valid JSON. The scan stops beyond MAX_DEPTH. A key has the path of its object.
    """
    path: list[int | str] = []  # an entry for each open object (the current key) and list (the current index)
    previous = ""
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token in "{[":
            path.append("" if token == "{" else 0)
            if len(path) > MAX_DEPTH:
                return
        elif token in "}]":
            path = path[:-1]
        elif token == "," and path and isinstance(path[-1], int):
            path[-1] += 1
        elif token not in ",:":
            if path and isinstance(path[-1], str) and previous in ("{", ","):
                yield tuple(path[:-1]), token, match.start()
                path[-1] = _unquoted(token)[:_MAX_SHOWN]
            else:
                yield tuple(path), token, match.start()
        previous = token


def _unquoted(token: str) -> str:
    try:
        return str(json.loads(token, strict=False))
    except ValueError:
        return ""


def _problem(token: str) -> str | None:
    """Return why a string, number or literal is invalid JSON, as the end of an error message; None if it is valid."""
    if token in ("NaN", "Infinity", "-Infinity"):
        return f"is {token}; JSON has only finite numbers"
    if _NUMBER.fullmatch(token) and math.isinf(float(token)):
        return f"is {token[:_MAX_SHOWN]}; it must be a number that fits 64-bit floating point"
    if "\\u" in token and (lone := _LONE_SURROGATE.search(_unquoted(token))):
        return f"has the lone surrogate \\u{ord(lone[0]):04x}; it must come in a pair"
    return None
