"""StepDelays: how much longer than expected steps take, at the worst that is not an exception."""

from collections import deque

_WINDOW = 200  # steps: what the machine did before they began is past
_FIRST, _LEAST, _MOST = 1.1, 1.05, 1.5


class StepDelays:
    """`factor`: all but one in a hundred of the last steps took at most so many times what was expected of them.

    What makes steps late is mostly other programs on the machine: the factor is little above 1 where there are none.
    """

    def __init__(self) -> None:
        self._ratios: deque[float] = deque(maxlen=_WINDOW)
        self._factor = _FIRST

    @property
    def factor(self) -> float:
        return self._factor

    def observe(self, ratio: float) -> None:
        """ratio: what a step took, over what was expected."""
        self._ratios.append(ratio)
        num_late = 1 + len(self._ratios) // _WINDOW  # exceptions: one among the first, such as a prompt's first step
        if len(self._ratios) > num_late:
            self._factor = min(_MOST, max(_LEAST, sorted(self._ratios)[-1 - num_late]))
