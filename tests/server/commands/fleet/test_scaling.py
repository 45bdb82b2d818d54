"""QueuedTokens: a replica for each full set of running requests, and for each target of queued tokens."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from server.commands.fleet.scaling import BUSY_SHARE, QUEUED_TOKENS, QueuedTokens, wanted_replicas

pytestmark = pytest.mark.fast


@dataclass
class Context:
    aggregated_metrics: dict[str, dict[str, float]] | None
    current_num_replicas: int = 3
    policy_state: dict[str, Any] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("queued", "busy", "wanted"),
    [(0, 0.0, 1), (0, 1.0, 1), (0, 1.01, 2), (1, 1.0, 2), (8192, 1.0, 2), (8193, 1.0, 3), (20_000, 0.5, 3)],
)
def test_wanted_replicas_grow_with_running_and_queued_work(queued: float, busy: float, wanted: int) -> None:
    assert wanted_replicas(queued, busy, 8192) == wanted


def test_reports_of_all_replicas_are_added() -> None:
    reports = {QUEUED_TOKENS: {"a": 6000.0, "b": 3000.0}, BUSY_SHARE: {"a": 1.0, "b": 1.0}}
    assert QueuedTokens(8192)(Context(reports))[0] == 4


@pytest.mark.parametrize("reports", [None, {}, {QUEUED_TOKENS: {}, BUSY_SHARE: {}}])
def test_the_number_stays_before_there_are_reports(reports: dict[str, dict[str, float]] | None) -> None:
    assert QueuedTokens(8192)(Context(reports))[0] == 3
