"""StallDetector: detects that a job makes no progress because clients or other programs use the CPUs."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from server.jobs.child import Child
from server.jobs.idle_gate import IdleGate

_AFTER_S = 60.0  # without progress: steps take less, if the process can compute
_MOSTLY_CLOSED = 0.5  # share of that time for which a closed gate counts as the reason
_HARDLY_COMPUTED = 0.1  # share of a processor below which other programs count as the reason


@dataclass(frozen=True, slots=True)
class _Mark:
    """The start of a period without progress. closed_s, computed_s: IdleGate.closed_s and the child's CPU time then."""

    at_s: float
    closed_s: float
    child: Child | None
    computed_s: float


class StallDetector:
    """Detects stalls of one job, a minute or more without progress. After a report, another stall is reported only if
    the job has progressed twice within a minute in between."""

    def __init__(self, gate: IdleGate, *, gives_way: bool, now: Callable[[], float] = time.monotonic) -> None:
        """gives_way: whether the job's processes run at a lower priority than the server."""
        self._gate = gate
        self._gives_way = gives_way
        self._now = now
        self._progress: object = None
        self._is_reported = False
        self._mark = self._mark_now(None)

    def reason(self, progress: object, child: Child | None = None, *, known_reason: str | None = None) -> str | None:
        """Return the reason of a stall that must be reported now, or None. Must be called every few seconds.

        progress: any value that changes when the job makes progress. child: the job's process, if it has one.
        known_reason: reason of the stall, if the caller knows it.
        """
        seconds = self._now() - self._mark.at_s
        if progress != self._progress:
            self._is_reported = self._is_reported and seconds >= _AFTER_S
            self._progress, self._mark, seconds = progress, self._mark_now(child), 0.0
        if self._is_reported or seconds < _AFTER_S:
            return None
        found = known_reason or self._find_reason(seconds, child)
        if found is None:
            self._mark = self._mark_now(child)
        self._is_reported = found is not None
        return found

    def _mark_now(self, child: Child | None) -> _Mark:
        use = None if child is None else child.processor_use()
        return _Mark(self._now(), self._gate.closed_s, child, 0.0 if use is None else use.seconds)

    def _find_reason(self, seconds: float, child: Child | None) -> str | None:
        """Return the reason why the job got no CPU time; None if it computes, or waits for something else."""
        if self._gate.closed_s - self._mark.closed_s >= _MOSTLY_CLOSED * seconds:
            return (
                "Waiting: requests and lines of batches keep the server busy, and the job is stopped for them; if the "
                "server is never idle, start it with --finetune-yield share"
            )
        if child is None or child is not self._mark.child:  # it has not had all that time to compute
            return None
        use = child.processor_use()
        if use is None or not use.is_ready:
            return None
        computed_s = use.seconds - self._mark.computed_s
        if computed_s >= _HARDLY_COMPUTED * seconds:
            return None
        remedy = "; start the server with --finetune-yield never, or end them" if self._gives_way else "; end them"
        return (
            f"Waiting: other programs keep the processors busy, and the job got {computed_s:.1f} s of processor time "
            f"in the last {seconds:.0f} s{remedy}"
        )
