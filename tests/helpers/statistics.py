"""Chi-square tests of counts, and Holm's correction over many of them."""

from collections.abc import Mapping

import numpy as np
import torch

SIGNIFICANCE = 0.001  # of a family of tests: the chance that any of them raises a false alarm


def chi_square_p(statistic: float, freedom: int) -> float:
    """The chance of a statistic at least so large, if the counts are what is expected."""
    values = torch.tensor([freedom / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(values[0], values[1]))


def goodness_p(counts: np.ndarray, expected: np.ndarray) -> float:
    """counts, expected: [groups, cells]; the counts of each group add up to what is expected of it."""
    cells = expected > 0
    statistic = float(((counts - expected)[cells] ** 2 / expected[cells]).sum())
    return chi_square_p(statistic, int(cells.sum()) - len(cells))


def two_sample_p(first: np.ndarray, second: np.ndarray) -> float:
    """Whether two samples of counts, [cells] each, come from one distribution."""
    totals = first + second
    shares = np.stack([first, second]) - np.outer([first.sum(), second.sum()], totals / totals.sum())
    expected = np.outer([first.sum(), second.sum()], totals / totals.sum())
    return chi_square_p(float((shares**2 / expected).sum()), len(totals) - 1)


def significant(p_values: Mapping[str, float], level: float = SIGNIFICANCE) -> list[str]:
    """The tests that fail by Holm's step-down procedure, which bounds the chance of a single false alarm by `level`."""
    failed = []
    for index, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        if p > level / (len(p_values) - index):
            break
        failed.append(name)
    return failed
