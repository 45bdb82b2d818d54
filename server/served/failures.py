"""Models that could not be loaded, or whose engines ended: what is said of them, and when each is tried again."""

import math
from collections.abc import Collection

from engine.errors import EngineUnavailable
from server.served.loadable_model import MIN_RETRY_S, ModelState, Resident

_RETRY_FAILED_S = 10.0  # a load that failed is not tried again before
_MAX_RETRY_S = 300.0  # that it takes at most until the server tries again by itself


def failure(resident: Resident, now_s: float) -> EngineUnavailable:
    """Without the reason, which may name files: it is in the log, and told to operators."""
    left_s = max(MIN_RETRY_S, resident.failed_s + _RETRY_FAILED_S - now_s)
    return EngineUnavailable(f"the model could not be loaded, or has failed; try again in {math.ceil(left_s)} s")


def forget_failure(resident: Resident, now_s: float) -> None:
    """Let a request have the model loaded again. Raises EngineUnavailable if it failed only just now."""
    if now_s - resident.failed_s < _RETRY_FAILED_S:
        raise failure(resident, now_s)
    resident.state = ModelState.UNLOADED


def next_retried(residents: Collection[Resident]) -> Resident | None:
    """The model that the server tries again by itself; None while one has not failed. While all have, the server takes
    no requests, and a load balancer sends none that would have a model loaded."""
    if any(each.state is not ModelState.FAILED for each in residents):
        return None
    return min(residents, key=own_retry_s, default=None)


def own_retry_s(resident: Resident) -> float:
    """When the server tries again by itself, on the clock: twice as long after each failure in a row."""
    wait_s: float = _RETRY_FAILED_S * 2.0 ** min(resident.num_failures - 1, 10)
    return resident.failed_s + min(wait_s, _MAX_RETRY_S)
