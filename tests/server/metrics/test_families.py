"""Names of keys as labels: their own for the first hundred, one for all others."""

import pytest

from server.metrics.families import MAX_KEY_LABELS, KeyLabels
from server.metrics.values import Metrics

pytestmark = pytest.mark.fast


def test_the_first_names_stay_their_own_labels_and_later_ones_are_others() -> None:
    labels = KeyLabels()
    names = [f"k{number}" for number in range(MAX_KEY_LABELS + 5)]
    for _ in range(2):
        assert [labels.of(name) for name in names] == names[:MAX_KEY_LABELS] + ["other"] * 5


def test_metrics_of_keys_are_bounded_and_lose_nothing() -> None:
    metrics = Metrics("m")
    for number in range(1000):
        metrics.count_key_refusal(f"k{number}", "requests")
    (family,) = metrics._counters["key_refusals_total"].collect()
    assert len(family.samples) == MAX_KEY_LABELS + 1
    assert sum(sample.value for sample in family.samples) == 1000
