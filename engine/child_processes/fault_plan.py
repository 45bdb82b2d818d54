"""FaultPlan: the faults to inject, with their points and times, from a text such as `step:memory:*200,step:kill:900`.

A fault is `point:action:when`; `when` counts the visits to the point, from 1, in the life of one process: `7` is the
seventh visit alone, `*7` every seventh. Points and their actions:

    step     raise          the runner fails after it has computed the step
             memory         as if memory had run out within the step
             hang=S         the step takes S seconds more, without a sign of progress
             lost           as if the GPU had failed for good: the engine ends by itself
             exit, kill     the engine exits, or kills itself as the system's out-of-memory killer would
    request  raise          every step with this step's first request fails, from this step on
    logits   nan            the step's first row of logits, or first vector of a text, is not finite
    output   delay=S        the outputs of the step are sent S seconds later
             corrupt        bytes that are not a message are sent in place of the outputs
    store    full           a transaction of the store finds the disk full
    kv_read  fail           a block of the KV cache cannot be read from disk
             hang=S         that takes S seconds more
    kv_write full           a block of the KV cache finds the disk full
"""

import math
from dataclasses import dataclass

from engine.errors import OptionError

VARIABLE = "HEADRACE_FAULTS"

_ACTIONS = {
    "step": ("raise", "memory", "lost", "hang", "exit", "kill"),
    "request": ("raise",),
    "logits": ("nan",),
    "output": ("delay", "corrupt"),
    "store": ("full",),
    "kv_read": ("fail", "hang"),
    "kv_write": ("full",),
}
_WITH_SECONDS = ("hang", "delay")


@dataclass(frozen=True, slots=True)
class PlannedFault:
    point: str
    action: str
    seconds: float  # duration of the actions hang and delay; else 0
    number: int
    is_repeated: bool

    def is_due(self, count: int) -> bool:
        """Return whether the fault happens at the `count`th visit to its point."""
        return count % self.number == 0 if self.is_repeated else count == self.number


class FaultPlan:
    """The planned faults of a process, and its visits to each point. One thread at a time may visit a point."""

    def __init__(self, text: str) -> None:
        """Parse a plan. Raises OptionError for a malformed fault, or an unknown point or action."""
        self._faults = [_parse(entry.strip()) for entry in text.split(",")]
        self._counts = dict.fromkeys(_ACTIONS, 0)

    def has(self, point: str) -> bool:
        """Return whether the plan has a fault for the point."""
        return any(fault.point == point for fault in self._faults)

    def due(self, point: str) -> list[PlannedFault]:
        """Count a visit to the point; return the faults that happen now."""
        self._counts[point] += 1
        return [fault for fault in self._faults if fault.point == point and fault.is_due(self._counts[point])]


def _parse(entry: str) -> PlannedFault:
    point, action, when = (*entry.split(":"), "", "", "")[:3]
    name, _, value = action.partition("=")
    if entry.count(":") != 2 or name not in _ACTIONS.get(point, ()):
        known = "; ".join(f"{each}: {', '.join(actions)}" for each, actions in _ACTIONS.items())
        raise OptionError(f"{VARIABLE} has {entry!r}; it must be point:action:when, with one of {known}")
    digits = when.removeprefix("*")
    if not (digits.isascii() and digits.isdigit() and int(digits) > 0):
        raise OptionError(f"{VARIABLE} has {entry!r}; its last part must be a number from 1, or * and a number")
    return PlannedFault(
        point, name, _seconds(entry, value, is_wanted=name in _WITH_SECONDS), int(digits), when[0] == "*"
    )


def _seconds(entry: str, value: str, *, is_wanted: bool) -> float:
    try:
        seconds = float(value) if value else None
    except ValueError:
        seconds = math.nan
    if is_wanted != (seconds is not None) or (seconds is not None and not 0 <= seconds < math.inf):
        raise OptionError(
            f"{VARIABLE} has {entry!r}; hang and delay have seconds, such as hang=3, and others have none"
        )
    return seconds or 0.0
