"""measure: accuracy, Brier score, log loss and expected calibration error of probabilities.

A predicate's probability is that it is true, in all four. For a choice or score, the Brier score is summed over the
labels, and the calibration error is that of the likeliest label's probability.
"""

import math
from collections.abc import Sequence

from server.calibration.calibration import Measures, log_probability

NUM_BINS = 10


def measure(probabilities: Sequence[Sequence[float]], right: Sequence[int], *, is_predicate: bool) -> Measures:
    """Measure one or more answers. right: the index of each one's right label; 0 is a predicate's `true`."""
    pairs = list(zip(probabilities, right, strict=True))
    best = [max(range(len(each)), key=each.__getitem__) for each in probabilities]
    hits = [index == label for index, label in zip(best, right, strict=True)]
    if is_predicate:
        brier = [(each[0] - (label == 0)) ** 2 for each, label in pairs]
        claims = [(each[0], label == 0) for each, label in pairs]
    else:
        brier = [math.fsum((p - (index == label)) ** 2 for index, p in enumerate(each)) for each, label in pairs]
        claims = [(max(each), hit) for each, hit in zip(probabilities, hits, strict=True)]
    return Measures(
        accuracy=sum(hits) / len(pairs),
        brier_score=math.fsum(brier) / len(pairs),
        log_loss=-math.fsum(log_probability(each[label]) for each, label in pairs) / len(pairs),
        calibration_error=_calibration_error(claims),
    )


def _calibration_error(claims: Sequence[tuple[float, bool]]) -> float:
    """Return the mean distance between probability and share of true claims, over bins of equal width. claims: each
    with its probability."""
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(NUM_BINS)]
    for probability, is_true in claims:
        bins[min(int(probability * NUM_BINS), NUM_BINS - 1)].append((probability, is_true))
    distances = [abs(math.fsum(p for p, _ in each) - sum(is_true for _, is_true in each)) for each in bins]
    return math.fsum(distances) / len(claims)
