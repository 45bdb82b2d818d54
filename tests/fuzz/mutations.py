"""Mutations of valid inputs: of JSON values, of their text, and of bytes. The same seed makes the same ones."""

import copy
import json
import random
from collections.abc import Callable
from typing import Any

_SCALARS: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**53 + 1,
    2**63,
    -(2**63) - 1,
    10**40,
    0.5,
    -0.0,
    1e-320,
    1e308,
    "",
    " ",
    "0",
    "true",
    "null",
    "\0",
    "\u202e\ufeff",
    "é日😀",
    "{{ 1 }}{% for %}",
    "../../etc/passwd",
    "<|im_start|>",
    "a" * 300,
    "\\",
)
# Texts that Python's encoder does not write, put in place of a marker.
_LITERALS = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-1e999",
    "9" * 5000,
    "0x10",
    "01",
    '"\\ud800"',
    '"\\udc00\\ud800"',
)
_MAX_TEXT = 1 << 20
_MAX_PLACES = 2000  # of a value that is to be changed further
_MARK = "\ue000literal\ue001"


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values within, its own too."""
    found = [path]
    if isinstance(value, dict):
        for key in value:
            found += _places(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(len(value)):
            found += _places(value[index], (*path, index))
    return found


def _replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    value[path[0]] = _replaced(value[path[0]], path[1:], new)
    return value


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def _scalar(rng: random.Random, value: Any) -> Any:
    return _replaced(value, rng.choice(_places(value)), rng.choice(_SCALARS))


def _many(rng: random.Random, value: Any) -> Any:
    """A list with a value of the input many times."""
    path = rng.choice(_places(value))
    times = rng.choice((0, 2, 300, 5000))
    return _replaced(value, path, [copy.deepcopy(_at(value, path))] * min(times, 1 + 20_000 // len(_places(value))))


def _long(rng: random.Random, value: Any) -> Any:
    return _replaced(
        value, rng.choice(_places(value)), rng.choice(("a", "é", "\0", "{", "<|")) * rng.choice((5000, 60_000))
    )


def _without(rng: random.Random, value: Any) -> Any:
    path = rng.choice(_places(value))
    if path and isinstance(_at(value, path[:-1]), dict):
        del _at(value, path[:-1])[path[-1]]
    return value


def _renamed(rng: random.Random, value: Any) -> Any:
    """A field under another name, or of another one's value."""
    objects = [each for each in (_at(value, path) for path in _places(value)) if isinstance(each, dict) and each]
    if objects:
        chosen = rng.choice(objects)
        key = rng.choice(list(chosen))
        chosen[rng.choice((key.upper(), "", key + "\0", "é", "__class__", rng.choice(list(chosen))))] = chosen[key]
    return value


def _swapped(rng: random.Random, value: Any) -> Any:
    """One value in the place of another."""
    places = _places(value)
    return _replaced(value, rng.choice(places), copy.deepcopy(_at(value, rng.choice(places))))


def _literal(rng: random.Random, value: Any) -> Any:
    return _replaced(value, rng.choice(_places(value)), _MARK)


_OF_VALUES: tuple[Callable[[random.Random, Any], Any], ...] = (
    _scalar,
    _scalar,
    _many,
    _long,
    _without,
    _renamed,
    _swapped,
    _literal,
    _literal,
)


def mutate_value(rng: random.Random, value: Any) -> bytes:
    """The JSON of a value after one to four changes."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        value = rng.choice(_OF_VALUES)(rng, value)
        if len(_places(value)) > _MAX_PLACES:
            break
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    literal = _literal_text(rng)
    for mark in (json.dumps(_MARK), f'"{_MARK}"'):
        few = text.count(mark) * len(literal) < _MAX_TEXT
        text = text.replace(mark, literal if few else rng.choice(_LITERALS[:5]))
    return text.encode("utf-8", "surrogatepass")


def _literal_text(rng: random.Random) -> str:
    """Text that no encoder writes, or that is nested so deeply that none can."""
    if rng.random() < 0.6:
        return rng.choice(_LITERALS)
    opening, closing = rng.choice((("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")))
    depth = rng.choice((1, 3, 40, 600, 3000, 100_000))
    return opening * depth + rng.choice(("1", '"a"', "null")) + closing * depth


def _truncated(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _flipped(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 8))):
        if changed:
            changed[rng.randrange(len(changed))] = rng.choice((0, 0xFF, 0x7F, 0x80, rng.randrange(256)))
    return bytes(changed)


def _repeated(rng: random.Random, data: bytes) -> bytes:
    """A stretch of it twice: a key of JSON, an entry of a table."""
    start = rng.randrange(len(data) + 1)
    end = min(len(data), start + rng.randrange(1, 64))
    return data[:end] + data[start:]


def _cut_out(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.randrange(1, 32) :]


def _number(rng: random.Random, data: bytes) -> bytes:
    """A length, count or offset replaced by one that is wrong."""
    size = rng.choice((4, 8))
    start = rng.randrange(max(1, len(data) - size))
    number = rng.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**62, 2**63, 2**64 - 1, len(data), rng.randrange(4096)))
    return data[:start] + (number % 2 ** (8 * size)).to_bytes(size, "little") + data[start + size :]


_OF_BYTES = (_truncated, _flipped, _flipped, _repeated, _cut_out, _number, _number)


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """Data after one to three changes."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        data = rng.choice(_OF_BYTES)(rng, data)
    return data


def mutate_text(rng: random.Random, text: str) -> str:
    """As `mutate_bytes`, of a text that stays one."""
    return mutate_bytes(rng, text.encode()).decode("utf-8", "replace")


def encode_oddly(rng: random.Random, data: bytes) -> bytes:
    """JSON in an encoding that nobody should send, or with something around it."""
    text = data.decode("utf-8", "replace")
    return rng.choice(
        (
            b"\xef\xbb\xbf" + data,
            text.encode("utf-16"),
            text.encode("utf-32-le"),
            data + b"\0",
            data + data,
            b" " * 5000 + data,
            b"[" + data + b"]",
            data.replace(b'"', b"'"),
            data.replace(b":", b":/*a*/"),
            b"",
        )
    )
