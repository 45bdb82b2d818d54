"""A request's bytes as JSON: strict, bounded in depth, and with faults said in terms of the client's fields."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from engine.errors import InvalidRequest
from server.schemas.base import Location, path_text

MAX_CONTAINERS = 1 << 16  # objects and lists in a body; each costs microseconds, and half a kilobyte
MAX_VALUES = 1 << 21  # and values with a comma behind them, such as a prompt's token ids
MAX_DEPTH = 64  # objects and lists within each other; templates and validators walk bodies recursively

_MAX_SEARCHED = 1 << 16  # bytes, some 50 ms; in a longer body the place of a fault is not looked for
_BODY = "the body"
_MAX_SHOWN = 40  # characters of a client's token in a message

# Refuses NaN, infinities, numbers beyond float64 and lone surrogates.
_decode = msgspec.json.Decoder().decode
# A string may lack its end: were that no match, text full of quotes would be searched in quadratic time.
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}:,]|[^\s\[\]{}:,"]+', re.DOTALL)
_STRUCTURE = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{,]', re.DOTALL)
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_json(data: bytes, what: str = _BODY) -> Any:
    """The value that `data` spells, within MAX_DEPTH, MAX_CONTAINERS and MAX_VALUES. what: it is called in messages.

    Raises InvalidRequest.
    """
    _check_size(data, what)
    try:
        value = _decode(data)
    except RecursionError:
        raise InvalidRequest(
            f"{what} is nested far more than {MAX_DEPTH} levels deep; the limit is {MAX_DEPTH}"
        ) from None
    except ValueError as error:  # msgspec's errors and invalid UTF-8
        raise _explain(data, error, what) from None
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and (depth := _depth(value)) > MAX_DEPTH:
        raise InvalidRequest(f"{what} is nested {depth} levels deep; the limit is {MAX_DEPTH}")
    return value


def _check_size(data: bytes, what: str) -> None:
    """Raise InvalidRequest for more objects, lists or values than a request needs, before any is made.

    Those in texts do not count, so a body with many brackets is looked through, which takes up to a second.
    """
    if data.count(b"[") + data.count(b"{") <= MAX_CONTAINERS and data.count(b",") <= MAX_VALUES:
        return
    num_containers = num_values = 0
    for match in _STRUCTURE.finditer(data):
        token = data[match.start()]
        num_containers += token in b"[{"
        num_values += token == ord(",")
        if num_containers > MAX_CONTAINERS:
            remedy = "send fewer messages or parts, and join the texts of small ones" if what == _BODY else "give fewer"
            raise InvalidRequest(
                f"{what} has more than {MAX_CONTAINERS:,} objects and lists, which is the limit; {remedy}"
            )
        if num_values > MAX_VALUES:
            raise InvalidRequest(f"{what} has more than {MAX_VALUES:,} values, which is the limit; send fewer")


def _depth(value: Any) -> int:
    """How many objects and lists are within each other, counted level by level."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return depth


def _explain(data: bytes, error: ValueError, what: str) -> InvalidRequest:
    """What is wrong with `data`, which the decoder refused with `error`, and in which field."""
    try:
        text = data.decode()
    except UnicodeDecodeError as fault:
        return _explain_utf8(data, fault, what)
    if len(data) <= _MAX_SEARCHED:
        for path, token, _ in _strings_and_scalars(text):
            if (problem := _problem(token)) is not None:
                where = path_text(path)
                return InvalidRequest(f"{what} is not valid JSON: {where or what} {problem}", param=where or None)
    return InvalidRequest(f"{what} is not valid JSON: {error}")


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
    """Each string, number and name in `text` with the path of its field and its offset.

    It must bear text that is no JSON, and gives up beyond MAX_DEPTH. A key comes with the path of its object.
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
    """Why a string, number or name cannot be taken, as the end of a sentence; None if it is not its fault."""
    if token in ("NaN", "Infinity", "-Infinity"):
        return f"is {token}; JSON has finite numbers only"
    if _NUMBER.fullmatch(token) and math.isinf(float(token)):
        return f"is {token[:_MAX_SHOWN]}; it must be a number that fits 64-bit floating point"
    if "\\u" in token and (lone := _LONE_SURROGATE.search(_unquoted(token))):
        return f"has the lone surrogate \\u{ord(lone[0]):04x}; it must come in a pair"
    return None
