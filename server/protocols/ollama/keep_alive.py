"""keep_alive: for how long Ollama's clients want a model to stay loaded."""

import math
import re

from engine.errors import InvalidRequest

LONGEST_S = 10 * 365 * 86_400.0  # more is for good: no process lasts so long, and dates end with the year 9999
_UNITS = {"ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_PART = re.compile(rf"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)({'|'.join(_UNITS)})")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")  # of the whole text: to search it for parts takes quadratic time


def keep_alive_s(value: float | str) -> float:
    """Seconds after the last request; infinite for anything negative, and beyond ten years. Raises InvalidRequest.

    value: a number of seconds, or a duration as Go writes it: "5m", "1h30m", "-1".
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
