"""Numbers in schemas: checks of whether a grammar, which computes in float64, can represent them exactly."""

import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

MAX_INTEGER = 1 << 53  # doubles hold every integer up to it
MAX_SIZE = 10_000_000  # of a length or a count, which no answer reaches

_MAX_INT64 = (1 << 63) - 1  # exact as a maximum of integers, since the grammar's integers end there
_MAX_OUTER = (1 << 63) - 1024  # the largest double below; with as many digits, only limits away from 0 can be written
_MAX_INNER = 10**18
_MORE_INTEGERS = ", and beyond only a minimum or maximum that is exact as a double, such as 2^60 as a maximum"
_MAX_DIGITS = 15  # of a fraction; doubles hold every decimal number with as many digits
_MAX_PLACES = 30
_MAX_MULTIPLE = 100_000_000  # the grammar's numbers overflow above
_MAX_STATES = 100_000  # of a multipleOf; the grammar needs seconds for a million

LOWER = ("minimum", "exclusiveMinimum")
UPPER = ("maximum", "exclusiveMaximum")


def inexact_limit(keyword: str, value: float, *, is_integer: bool) -> str | None:
    """Return why a grammar cannot enforce a minimum or maximum; None if it can. is_integer: only integers are valid."""
    if is_integer and _is_exact_integer(keyword, value):
        return None
    if _is_beyond(value):
        return f"a grammar can represent integers up to 2^53 exactly{_MORE_INTEGERS if is_integer else ''}"
    if value == int(value):
        return None
    number = Decimal(repr(value)).normalize()
    digits, exponent = number.as_tuple()[1:]
    if len(digits) > _MAX_DIGITS or -int(exponent) > _MAX_PLACES:
        return f"a grammar holds up to {_MAX_DIGITS} digits, and {_MAX_PLACES} places, exactly"
    return None


def _is_exact_integer(keyword: str, value: float) -> bool:
    """Whether a grammar can enforce the limit for integers exactly, even beyond 2^53."""
    if keyword not in (LOWER[0], UPPER[0]) or _is_infinite(value):  # the grammar adds 1 to the others, as doubles
        return False
    if keyword == UPPER[0] and value == _MAX_INT64 and isinstance(value, int):
        return True
    is_outer = (value > 0) == (keyword == UPPER[0])
    if not (abs(value) < _MAX_INNER or (is_outer and abs(value) <= _MAX_OUTER)):
        return False
    return int(value) == value == int(float(value))


def inexact_multiple(value: float) -> str | None:
    """Return why a grammar cannot enforce this `multipleOf`; None if it can."""
    if _is_beyond(value):
        return "a grammar can represent integers up to 2^53 exactly"
    scaled, decimals = float(value), 0
    while scaled != int(scaled):  # like the grammar, which rounds each product
        scaled, decimals = scaled * 10, decimals + 1
    if Decimal(int(scaled)).scaleb(-decimals) != Decimal(repr(value)):
        return "a grammar cannot contain this fraction exactly"
    states = coefficient = int(scaled)
    for factor in (2, 5):
        while states % factor == 0:
            states //= factor
    if coefficient > _MAX_MULTIPLE or states > _MAX_STATES:
        return "it is too large for a grammar"
    return None


def inexact_number(value: Any) -> float | None:
    """Return the first number in a JSON value that a grammar cannot represent exactly; None if there is none."""
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
    """Return the JSON value with 0 in place of -0.0, for which a grammar would require the minus sign."""
    if isinstance(value, dict):
        return {name: without_minus_zero(item) for name, item in value.items()}
    if isinstance(value, list):
        return [without_minus_zero(item) for item in value]
    return 0 if isinstance(value, float) and value == 0 else value


def limits_of(node: Mapping[str, Any]) -> dict[str, float]:
    """Return the schema's limits of numbers, by keyword. Boolean exclusive limits, as in draft 4, become numbers."""
    limits: dict[str, float] = {}
    for plain, exclusive in zip(("minimum", "maximum"), ("exclusiveMinimum", "exclusiveMaximum"), strict=True):
        if node.get(exclusive) is True:
            limits.update({exclusive: node[plain]} if plain in node else {})
        else:
            limits.update({name: node[name] for name in (plain, exclusive) if node.get(name, False) is not False})
    return limits


def sizes_of(node: Mapping[str, Any], least: str, most: str) -> dict[str, int]:
    """Return the limits of size under the keywords `least` and `most`, except limits that no answer reaches."""
    sizes = {name: int(node[name]) for name in (least, most) if name in node}
    return {name: size for name, size in sizes.items() if size <= MAX_SIZE}


def empty_range(node: Mapping[str, Any], *, is_integer: bool) -> tuple[str, str] | None:
    """Return the keywords of a lower and an upper limit with no number between them; None if there are none."""
    limits = limits_of(node)
    for lower, low in _limits_in(limits, LOWER):
        for upper, high in _limits_in(limits, UPPER):
            is_open = lower != LOWER[0] or upper != UPPER[0]
            if low > high or (low == high and is_open) or (is_integer and _has_no_integer(lower, low, upper, high)):
                return given_keyword(node, lower), given_keyword(node, upper)
    return None


def _limits_in(limits: Mapping[str, float], keywords: tuple[str, str]) -> Iterator[tuple[str, float]]:
    return ((keyword, limits[keyword]) for keyword in keywords if keyword in limits)


def _has_no_integer(lower: str, low: float, upper: str, high: float) -> bool:
    if _is_infinite(low) or _is_infinite(high):
        return False
    least = math.ceil(low) if lower == LOWER[0] else math.floor(low) + 1
    greatest = math.floor(high) if upper == UPPER[0] else math.ceil(high) - 1
    return least > greatest


def given_keyword(node: Mapping[str, Any], keyword: str) -> str:
    """Return the keyword that has the limit's number: `minimum` if exclusiveMinimum is only true, as in draft 4."""
    plain = {"exclusiveMinimum": "minimum", "exclusiveMaximum": "maximum"}
    return plain[keyword] if node.get(keyword) is True else keyword


def _is_infinite(value: float) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _is_beyond(value: float) -> bool:
    return _is_infinite(value) or abs(value) > MAX_INTEGER
