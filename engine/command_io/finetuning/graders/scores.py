"""read_score: the number that a model answers with when it is asked for one."""

import math
import re
from typing import Any

import msgspec

_LARGEST = 1e300
_RESULT = "result"  # the field that OpenAI's graders answer with
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?(?!\w)")


def read_score(text: str) -> float | None:
    """A JSON object's `result`, or else the only number in the text; None if there is no such number."""
    value = _json(text)
    if isinstance(value, dict):
        return _number(value.get(_RESULT))
    found = _NUMBER.findall(text)
    if len(found) != 1:
        return None
    number = float(found[0])
    return number if math.isfinite(number) else None


def _json(text: str) -> Any:
    try:
        return msgspec.json.decode(text.strip().encode())
    except (ValueError, RecursionError):
        return None


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) > _LARGEST:
        return None
    return float(value)
