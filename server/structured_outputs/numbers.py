"""Numbers: which of them the grammar can hold exactly. It computes in doubles."""

import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

MAX_INTEGER = 1 << 53  # doubles hold every integer up to it
MAX_SIZE = 10_000_000  # of a length or a count: no answer reaches it

_MAX_INT64 = (1 << 63) - 1  # exact as a maximum of integers: the grammar's are cut off there
_MAX_OUTER = (1 << 63) - 1024  # the largest double below: with as many digits, only limits away from 0 can be written
_MAX_INNER = 10**18
_MORE_INTEGERS = ", and beyond only a minimum or maximum that is exact as a double, such as 2^60 as a maximum"
_MAX_DIGITS = 15  # of a fraction: doubles hold every decimal number of that many
_MAX_PLACES = 30
_MAX_MULTIPLE = 100_000_000  # the grammar's own numbers overflow above
_MAX_STATES = 100_000  # of a multipleOf; the grammar needs seconds for a million

LOWER = ("minimum", "exclusiveMinimum")
UPPER = ("maximum", "exclusiveMaximum")


def inexact_limit(keyword: str, value: float, *, is_integer: bool) -> str | None:
    """Why the grammar cannot enforce the limit; None if it can. is_integer: only integers are limited."""
    if is_integer and _is_exact_integer(keyword, value):
        return None
    if _is_beyond(value):
        return f"a grammar can have integers up to 2^53 exactly{_MORE_INTEGERS if is_integer else ''}"
    if value == int(value):
        return None
    number = Decimal(repr(value)).normalize()
    digits, exponent = number.as_tuple()[1:]
    if len(digits) > _MAX_DIGITS or -int(exponent) > _MAX_PLACES:
        return f"a grammar holds up to {_MAX_DIGITS} digits, and {_MAX_PLACES} places, exactly"
    return None


def _is_exact_integer(keyword: str, value: float) -> bool:
    """Whether the limit of integers is one beyond 2^53 that the grammar holds all the same."""
    if keyword not in (LOWER[0], UPPER[0]) or _is_infinite(value):  # it adds 1 to the others, as doubles
        return False
    if keyword == UPPER[0] and value == _MAX_INT64 and isinstance(value, int):
        return True
    is_outer = (value > 0) == (keyword == UPPER[0])
    if not (abs(value) < _MAX_INNER or (is_outer and abs(value) <= _MAX_OUTER)):
        return False
    return int(value) == value == int(float(value))


def inexact_multiple(value: float) -> str | None:
    """Why the grammar cannot enforce the multipleOf; None if it can."""
    if _is_beyond(value):
        return "a grammar can have integers up to 2^53 exactly"
    scaled, places = float(value), 0
    while scaled != int(scaled):  # as the grammar does, which rounds each product
        scaled, places = scaled * 10, places + 1
    if Decimal(int(scaled)).scaleb(-places) != Decimal(repr(value)):
        return "a grammar cannot contain this fraction exactly"
    states = coefficient = int(scaled)
    for factor in (2, 5):
        while states % factor == 0:
            states //= factor
    if coefficient > _MAX_MULTIPLE or states > _MAX_STATES:
        return "it is too large for a grammar"
    return None


def inexact_number(value: Any) -> float | None:
    """The first number in a JSON value that the grammar would take for another; None if there is none."""
    stack = [value]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            stack += value.values()
        elif isinstance(value, list):
            stack += value
        elif isinstance(value, int | float) and _is_beyond(value):
            return value
    return None


def without_minus_zero(value: Any) -> Any:
    """The value with 0 for -0.0, which is the same number; a grammar would ask for the minus."""
    if isinstance(value, dict):
        return {name: without_minus_zero(item) for name, item in value.items()}
    if isinstance(value, list):
        return [without_minus_zero(item) for item in value]
    return 0 if isinstance(value, float) and value == 0 else value


def limits_of(node: Mapping[str, Any]) -> dict[str, float]:
    """The limits with draft 4's flags as numbers."""
    limits: dict[str, float] = {}
    for plain, exclusive in zip(("minimum", "maximum"), ("exclusiveMinimum", "exclusiveMaximum"), strict=True):
        if node.get(exclusive) is True:
            limits.update({exclusive: node[plain]} if plain in node else {})
        else:
            limits.update({name: node[name] for name in (plain, exclusive) if node.get(name, False) is not False})
    return limits


def sizes_of(node: Mapping[str, Any], least: str, most: str) -> dict[str, int]:
    """Both as integers, without a limit that no answer reaches."""
    sizes = {name: int(node[name]) for name in (least, most) if name in node}
    return {name: size for name, size in sizes.items() if size <= MAX_SIZE}


def empty_range(node: Mapping[str, Any], *, is_integer: bool) -> tuple[str, str] | None:
    """A lower and an upper limit of the node that leave no number between them."""
    limits = limits_of(node)
    for lower, low in _of(limits, LOWER):
        for upper, high in _of(limits, UPPER):
            is_open = lower != LOWER[0] or upper != UPPER[0]
            if low > high or (low == high and is_open) or (is_integer and _has_no_integer(lower, low, upper, high)):
                return given_keyword(node, lower), given_keyword(node, upper)
    return None


def _of(limits: Mapping[str, float], keywords: tuple[str, str]) -> Iterator[tuple[str, float]]:
    return ((keyword, limits[keyword]) for keyword in keywords if keyword in limits)


def _has_no_integer(lower: str, low: float, upper: str, high: float) -> bool:
    if _is_infinite(low) or _is_infinite(high):
        return False
    least = math.ceil(low) if lower == LOWER[0] else math.floor(low) + 1
    greatest = math.floor(high) if upper == UPPER[0] else math.ceil(high) - 1
    return least > greatest


def given_keyword(node: Mapping[str, Any], keyword: str) -> str:
    """The keyword that has the number: draft 4's flags stand beside it."""
    plain = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}
    return plain[keyword] if node.get(keyword) is True else keyword


def _is_infinite(value: float) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _is_beyond(value: float) -> bool:
    return _is_infinite(value) or abs(value) > MAX_INTEGER
