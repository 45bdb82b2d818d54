"""SLO: limits of time that a load must keep, and how a simulation misses them."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from engine.errors import OptionError
from engine.simulation.results import Percentiles, SimulationResult

# Names of limits -> what they limit.
LIMITS = {"ttft": "time to the first token", "tpot": "time per further token", "request": "time of a whole request"}
_TIME = re.compile(r"(\d+(?:\.\d+)?)(ms|s)", re.ASCII)
_FORM = f"it must be such as ttft=1s,tpot=50ms; there are {', '.join(LIMITS)}"


@dataclass(frozen=True, slots=True)
class Miss:
    """A limit that a load does not keep."""

    name: str
    limit_s: float
    p95_s: float

    def __str__(self) -> str:
        return f"{LIMITS[self.name]} is {show_s(self.p95_s)} (p95), above {show_s(self.limit_s)}"


@dataclass(frozen=True, slots=True)
class SLO:
    """Limits in seconds by name; 95 % of the requests must keep each."""

    limits_s: dict[str, float]

    def misses(self, result: SimulationResult) -> list[Miss]:
        """Return the limits that a simulated load does not keep."""
        return list(self._misses(result))

    def _misses(self, result: SimulationResult) -> Iterator[Miss]:
        times = figures_by_name(result)
        for name, limit_s in self.limits_s.items():
            if (found := times[name]) is not None and found.p95 > limit_s:
                yield Miss(name, limit_s, found.p95)


def figures_by_name(result: SimulationResult) -> dict[str, Percentiles | None]:
    return {"ttft": result.ttft_s, "tpot": result.token_s, "request": result.request_s}


def parse_slo(text: str, source: str = "--slo") -> SLO:
    """Parse limits such as 'ttft=1s,tpot=50ms'. source: the name that error messages give the text. Raises
    OptionError."""
    limits_s: dict[str, float] = {}
    for part in text.split(","):
        name, separator, value = part.strip().partition("=")
        if not separator:
            raise OptionError(f"{source} is {text!r}; {_FORM}")
        if name not in LIMITS:
            raise OptionError(f"{source} has {name!r}, which is no limit; {_FORM}")
        if name in limits_s:
            raise OptionError(f"{source} has {name} twice; give it once")
        found = _TIME.fullmatch(value)
        limit_s = float(found[1]) / (1000 if found[2] == "ms" else 1) if found else 0.0
        if not 0 < limit_s < math.inf:
            raise OptionError(f"{source} has {name}={value}; the time must be above 0, with ms or s, such as 50ms")
        limits_s[name] = limit_s
    return SLO(limits_s)


def show_s(seconds: float) -> str:
    """Return a time with three digits, such as 42.1 ms."""
    return f"{show_amount(seconds)} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def show_amount(amount: float) -> str:
    """Return users, or requests a second, with three digits, or all of a whole number, such as 0.52 or 21,517."""
    return f"{amount:.3g}" if amount < 1000 else f"{amount:,.0f}"
