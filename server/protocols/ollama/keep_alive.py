"""keep_alive: how long a model stays loaded after an Ollama client's request."""

import math
import re

from engine.errors import InvalidRequest

LONGEST_S = 10 * 365 * 86_400.0  # beyond this a model is never unloaded; dates end with the year 9999
_UNITS = {"ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_PART = re.compile(rf"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)({'|'.join(_UNITS)})")
_DURATION = re.compile(
    rf"(?:{_PART.pattern})+"
)  # matches the whole text, since searching for parts takes quadratic time


def keep_alive_s(value: float | str) -> float:
    """Return seconds after the last request, infinite for anything negative or beyond ten years.

    value: a number of seconds, or a duration in Go's form: "5m", "1h30m", "-1". Raises InvalidRequest.
    """
    if not isinstance(value, str):
        return math.inf if value < 0 or value > LONGEST_S else float(value)
    text = value.strip()
    is_negative = text.startswith("-")
    digits = text.lstrip("+-")
    seconds = float(digits) if _SECONDS.fullmatch(digits) else _duration(digits)
    if seconds is None:
        raise InvalidRequest(
            f'keep_alive is {value[:40]!r}; it must be a number of seconds or a duration such as "5m"',
            param="keep_alive",
        )
    return math.inf if (is_negative and seconds) or seconds > LONGEST_S else seconds


def _duration(text: str) -> float | None:
    if _DURATION.fullmatch(text) is None:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
