"""Distributions of the lengths of prompts and outputs: fixed, uniform or log-normal. Neither torch nor numpy here."""

import math
import random
from dataclasses import dataclass
from typing import Protocol

from engine.errors import OptionError


class Lengths(Protocol):
    """A distribution of lengths in tokens, each at least 1."""

    @property
    def mean(self) -> float: ...

    def draw(self, rng: random.Random) -> int: ...


@dataclass(frozen=True, slots=True)
class UniformLength:
    """All lengths from low to high, both included, with equal probability."""

    low: int
    high: int

    @property
    def mean(self) -> float:
        return (self.low + self.high) / 2

    def draw(self, rng: random.Random) -> int:
        # A fixed length is not drawn, so that other draws do not depend on it.
        return self.low if self.low == self.high else rng.randint(self.low, self.high)


@dataclass(frozen=True, slots=True)
class LognormalLength:
    """A log-normal distribution. sigma: standard deviation of the natural logarithm.

    Draws beyond `maximum` are drawn again: cut off, they would pile up at the limit.
    """

    median: int
    sigma: float
    maximum: int

    @property
    def mean(self) -> float:
        """Mean of the distribution without its maximum."""
        return self.median * math.exp(self.sigma**2 / 2)

    def draw(self, rng: random.Random) -> int:
        while True:  # the median is under the maximum, so every second draw is good
            length = max(1, round(rng.lognormvariate(math.log(self.median), self.sigma)))
            if length <= self.maximum:
                return length


def parse_lengths(text: str, source: str) -> Lengths:
    """Parse a distribution of lengths: '128' (fixed), '64:512' (uniform, both ends included) or
    'lognormal:MEDIAN:SIGMA[:MAX]' (MAX defaults to 16 medians).

    source: the name that error messages give the text, such as an option. Raises OptionError if `text` has none of
    these forms.
    """
    try:
        return _parse(text)
    except ValueError:
        raise OptionError(
            f"{source} is {text!r}; it must be a length such as 128, a range such as 64:512, or "
            "lognormal:MEDIAN:SIGMA[:MAX], in tokens and at least 1"
        ) from None


def _parse(text: str) -> Lengths:
    kind, *parts = text.split(":")
    if kind == "lognormal":
        median, sigma, *limit = parts
        (maximum,) = (int(each) for each in limit) if limit else (16 * int(median),)
        spread = float(sigma)
        if not (1 <= int(median) <= maximum and 0 <= spread < math.inf):
            raise ValueError(text)
        return LognormalLength(int(median), spread, maximum)
    low, *end = (int(part) for part in (kind, *parts))
    (high,) = end or (low,)
    if not 1 <= low <= high:
        raise ValueError(text)
    return UniformLength(low, high)
