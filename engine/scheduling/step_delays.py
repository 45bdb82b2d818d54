"""StepDelays: how much longer than expected steps take, at the worst that is not an exception."""

_QUANTILE = 0.99
_GAIN = 0.03  # of a change; a factor that is too high sinks by a tenth in some 300 steps
_FIRST, _LEAST, _MOST = 1.1, 1.05, 1.5


class StepDelays:
    """`factor`: all but one step in a hundred take at most so many times what was expected of them.

    It rises with each step that takes longer, and sinks a little with each other one, so that it rests where a
    hundredth of them exceeds it (stochastic approximation, Robbins and Monro 1951). What makes steps late is mostly
    other programs on the machine: the factor is little above 1 where there are none.
    """

    def __init__(self) -> None:
        self._factor = _FIRST

    @property
    def factor(self) -> float:
        return self._factor

    def observe(self, ratio: float) -> None:
        """ratio: what a step took, over what was expected."""
        change = _QUANTILE if ratio > self._factor else _QUANTILE - 1
        self._factor = min(_MOST, max(_LEAST, self._factor + _GAIN * change))
