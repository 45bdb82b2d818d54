"""fit_power_law: a power law with an offset, fitted to losses by least squares, with intervals by profile likelihood.

The loss at size x is E + A x^-a, the form in which Hoffmann et al. 2022 (arXiv 2203.15556, approach 3) describe a loss
by one of its sizes. For a given exponent the law is linear in its other two parameters. So the fit is a search over one
number, which cannot end in a local minimum; fits that end too early made the published intervals too narrow (Besiroglu
et al. 2024, arXiv 2404.10102).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import OptionError

LEAST_POINTS = 4  # three describe the law, and one more the noise
LEAST_SIZES = 3
_CONFIDENCE = 0.95
_STEPS = 128  # of the grid over ratios
_LEAST_RATIO = 1 / 64  # an exponent of 6: a further doubling brings as good as nothing

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """A fitted law. Intervals are of 95 %.

    size: the largest one with a loss. loss: fitted there, in the unit of the losses. gain: decrease of the loss from
    `size` to twice that; negative for an increase. next_loss: interval of the loss of one further job of twice the
    size, its noise included. exponent: 0 stands for a logarithm; its interval ends at infinity if no exponent is too
    large. noise: standard deviation of losses at one size. is_noise: the gain cannot be distinguished from none.
    """

    size: float
    loss: float
    gain: float
    gain_interval: Interval
    next_loss: Interval
    exponent: float
    exponent_interval: Interval
    noise: float
    is_noise: bool


@dataclass(frozen=True, slots=True)
class _Line:
    """The best law of one exponent, linear in its basis. ratio: 2^-exponent, by which each doubling of the size brings
    less than the one before. weight: sum of squares of the centered basis. residual: sum of squares."""

    ratio: float
    mean: float
    center: float
    slope: float
    weight: float
    residual: float
    num_points: int

    def value(self, basis: float) -> float:
        return self.mean + self.slope * (basis - self.center)

    def variance(self, basis: float) -> float:
        """Return the variance of the fitted value, in units of the noise's."""
        return 1 / self.num_points + (basis - self.center) ** 2 / self.weight


def fit_power_law(points: Sequence[tuple[float, float]]) -> PowerLaw:
    """Fit the law to (size, loss) points. Raises OptionError for too few points or sizes, and for values that a law
    cannot have."""
    _check(points)
    largest = max(size for size, _ in points)
    doublings = [math.log2(size / largest) for size, _ in points]
    losses = [loss for _, loss in points]
    freedom = len(points) - 3
    low, high = _LEAST_RATIO, 1.0
    for _ in range(2):  # the second time, finer
        lines = [_line(doublings, losses, low + (high - low) * number / _STEPS) for number in range(_STEPS + 1)]
        best = min(lines, key=lambda line: line.residual)
        variance = best.residual / freedom
        most = best.residual + variance * student_quantile(freedom) ** 2  # of residuals that are within the interval
        within = [line for line in lines if line.residual <= most]
        step = (high - low) / _STEPS
        low, high = max(_LEAST_RATIO, within[0].ratio - step), min(1.0, within[-1].ratio + step)
    gains = [_around(line.slope, 1 / line.weight, most - line.residual) for line in within]
    is_unbounded = within[0].ratio == _LEAST_RATIO
    gain_interval = _hull([*gains, (0.0, 0.0)] if is_unbounded else gains)  # a law that is already flat is possible
    nexts = [_around(line.value(-1), line.variance(-1) + 1, most - line.residual) for line in within]
    return PowerLaw(
        size=largest,
        loss=best.value(0),
        gain=best.slope,
        gain_interval=gain_interval,
        next_loss=_hull(nexts),
        exponent=_exponent(best.ratio),
        exponent_interval=(
            _exponent(within[-1].ratio),
            math.inf if is_unbounded else _exponent(within[0].ratio),
        ),
        noise=math.sqrt(variance),
        is_noise=gain_interval[0] <= 0 <= gain_interval[1] or _is_flat(losses, best.residual, freedom),
    )


def _check(points: Sequence[tuple[float, float]]) -> None:
    for size, loss in points:
        if not (math.isfinite(size) and size > 0 and math.isfinite(loss)):
            raise OptionError(f"a loss of {loss:g} at size {size:g} is no point of a curve; leave this job out")
    num_sizes = len({size for size, _ in points})
    if len(points) < LEAST_POINTS or num_sizes < LEAST_SIZES:
        raise OptionError(
            f"{len(points)} losses at {num_sizes} different sizes are given; a law with its uncertainty needs at least "
            f"{LEAST_POINTS} at {LEAST_SIZES}: add jobs of other sizes, and one that repeats a size with another seed "
            "or other lines"
        )


def _basis(doublings: float, ratio: float) -> float:
    """Return a law's term of the size: 0 at the largest size, -1 at twice that. doublings: from the largest size."""
    return -doublings if ratio == 1 else (ratio**doublings - 1) / (1 - ratio)


def _line(doublings: Sequence[float], losses: Sequence[float], ratio: float) -> _Line:
    """Return the law of least squares with a ratio."""
    terms = [_basis(each, ratio) for each in doublings]
    center, mean = sum(terms) / len(terms), sum(losses) / len(losses)
    weight = sum((term - center) ** 2 for term in terms)
    slope = sum((term - center) * (loss - mean) for term, loss in zip(terms, losses, strict=True)) / weight
    residual = sum((loss - mean - slope * (term - center)) ** 2 for term, loss in zip(terms, losses, strict=True))
    return _Line(ratio, mean, center, slope, weight, residual, len(terms))


def _exponent(ratio: float) -> float:
    return abs(math.log2(ratio))  # not -0.0


def _around(value: float, variance: float, slack: float) -> Interval:
    """Return the values of a linear parameter for which the residual grows by at most `slack`."""
    half = math.sqrt(variance * slack)
    return value - half, value + half


def _hull(intervals: Sequence[Interval]) -> Interval:
    return min(low for low, _ in intervals), max(high for _, high in intervals)


def _is_flat(losses: Sequence[float], residual: float, freedom: int) -> bool:
    """Return whether the law describes the losses no better than their mean does, by the F test of its two parameters.
    Without a slope the exponent means nothing, and the interval of the gain alone would too often exclude zero."""
    mean = sum(losses) / len(losses)
    explained = sum((loss - mean) ** 2 for loss in losses) - residual
    quantile = freedom / 2 * ((1 - _CONFIDENCE) ** (-2 / freedom) - 1)
    return explained <= 2 * quantile * residual / freedom


def student_quantile(freedom: int) -> float:
    """Return the value that the absolute of Student's t exceeds with a probability of 5 %. freedom: degrees of freedom,
    at least 1."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _share_within(middle, freedom) < _CONFIDENCE else (low, middle)
    return math.tan(low) * math.sqrt(freedom)


def _share_within(angle: float, freedom: int) -> float:
    """Return the probability that |t| is below tan(angle) sqrt(freedom), by the finite series for whole degrees of
    freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    is_odd = freedom % 2 == 1
    if freedom == 1:
        return 2 * angle / math.pi
    term = total = math.cos(angle) if is_odd else 1.0
    for power in range(3 if is_odd else 2, freedom - 1, 2):
        term *= math.cos(angle) ** 2 * (power - 1) / power
        total += term
    series = math.sin(angle) * total
    return 2 / math.pi * (angle + series) if is_odd else series
