"""keep_alive: for how long Ollama's clients want a model to stay loaded."""

import math
import re

from engine.errors import InvalidRequest

_PART = re.compile(r"([0-9]*\.?[0-9]+)(ns|us|\u00b5s|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def keep_alive_s(value: float | str) -> float:
    """Seconds after the last request; infinite for anything negative. Raises InvalidRequest.

    value: a number of seconds, or a duration as Go writes it: "5m", "1h30m", "-1".
    """
    if not isinstance(value, str):
        return math.inf if value < 0 else float(value)
    text = value.strip()
    is_negative = text.startswith("-")
    digits = text.lstrip("+-")
    seconds = float(digits) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", digits) else _duration(digits)
    if seconds is None:
        raise InvalidRequest(
            f'keep_alive is {value[:40]!r}; it must be a number of seconds or a duration such as "5m"',
            param="keep_alive",
        )
    return math.inf if is_negative and seconds else seconds


def _duration(text: str) -> float | None:
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
