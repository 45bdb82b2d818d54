"""Verdicts: the numbers of each kind of question, from the probabilities of its labels."""

from collections.abc import Sequence


def choice_confidence(probabilities: Sequence[float]) -> float:
    """Return how far the likeliest option is above an even split: 0 for equal probabilities, 1 for certainty."""
    num = len(probabilities)
    return (num * max(probabilities) - 1) / (num - 1)


def mean_level(probabilities: Sequence[float]) -> float:
    """Return the mean of the levels, which count from 0."""
    return sum(level * each for level, each in enumerate(probabilities))


def score_confidence(probabilities: Sequence[float]) -> float:
    """Return how closely the levels lie around the likeliest one: 1 for certainty, 0 for a spread as wide as that of
    equal probabilities around the middle, or wider."""
    num = len(probabilities)
    mode = max(range(num), key=probabilities.__getitem__)
    spread = sum(abs(level - mode) * each for level, each in enumerate(probabilities))
    even = sum(abs(level - (num - 1) / 2) for level in range(num)) / num
    return max(0.0, 1 - spread / even)
