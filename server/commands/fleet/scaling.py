"""QueuedTokens: the number of replicas for the work that they report. Ray's controller imports this: no Ray here."""

import math
from collections.abc import Mapping
from typing import Any, Protocol

QUEUED_TOKENS = "queued_tokens"  # prompt tokens that wait in a replica
BUSY_SHARE = "busy_share"  # of a replica's places for running requests


class ScalingContext(Protocol):
    """The part of Ray's AutoscalingContext that is read."""

    current_num_replicas: int
    policy_state: dict[str, Any]

    @property
    def aggregated_metrics(self) -> Mapping[str, Mapping[Any, float]] | None:
        """Values of the replicas' reports, by name and replica."""


class QueuedTokens:
    """Asks for as many replicas as running requests fill, and one more for each `target` queued prompt tokens.

    Ray keeps the number within its bounds, and waits until a change has been wanted for a while.
    """

    def __init__(self, target: int) -> None:
        self._target = target

    def __call__(self, context: ScalingContext) -> tuple[int, dict[str, Any]]:
        """Return the wanted number of replicas, and Ray's state. Before there are reports, the number stays."""
        reports = context.aggregated_metrics or {}
        queued, busy = reports.get(QUEUED_TOKENS), reports.get(BUSY_SHARE)
        if not queued or not busy:
            return context.current_num_replicas, context.policy_state
        return wanted_replicas(sum(queued.values()), sum(busy.values()), self._target), context.policy_state


def wanted_replicas(queued_tokens: float, busy_replicas: float, target: int) -> int:
    """Return the number of replicas for `queued_tokens` waiting, and running requests that fill `busy_replicas`."""
    return max(1, math.ceil(busy_replicas + queued_tokens / target - 1e-9))
