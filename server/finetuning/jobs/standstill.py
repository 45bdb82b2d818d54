"""Standstill: notices that a job does not get on, and why: clients keep the server busy, or others the processors."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from server.finetuning.jobs.child import Child
from server.finetuning.jobs.idle_gate import IdleGate

_AFTER_S = 60.0  # without news: steps take less, where a process computes
_MOSTLY_CLOSED = 0.5  # share of that time, from which on the gate is the reason
_ASKING = (
    "Waiting: models that grade have not answered yet; their requests give way to clients', and they may have to be "
    "loaded"
)
_HARDLY_COMPUTED = 0.1  # share of a processor, up to which others have it


@dataclass(frozen=True, slots=True)
class _Mark:
    """When a time without news began. closed_s: of the gate, up to then. computed_s: by the child."""

    at_s: float
    closed_s: float
    child: Child | None
    computed_s: float


class Standstill:
    """Of one job. A reason is told once, until the job gets on again: news that are as far apart as before are told of
    no further."""

    def __init__(self, gate: IdleGate, *, gives_way: bool, now: Callable[[], float] = time.monotonic) -> None:
        """gives_way: whether its processes compute at priorities below the server's."""
        self._gate = gate
        self._gives_way = gives_way
        self._now = now
        self._news: object = None
        self._is_told = False
        self._mark = self._begun(None)

    def reason(self, news: object, child: Child | None = None, *, is_asking: bool = False) -> str | None:
        """Why it has not got on for a while, when that is to be told. To be called now and then.

        news: is another one when the job has got on. child: its process, if there is one. is_asking: whether it waits
        for models that grade.
        """
        seconds = self._now() - self._mark.at_s
        if news != self._news:
            self._is_told = self._is_told and seconds >= _AFTER_S
            self._news, self._mark, seconds = news, self._begun(child), 0.0
        if self._is_told or seconds < _AFTER_S:
            return None
        found = _ASKING if is_asking else self._found(seconds, child)
        if found is None:
            self._mark = self._begun(child)
        self._is_told = found is not None
        return found

    def _begun(self, child: Child | None) -> _Mark:
        use = None if child is None else child.processor_use()
        return _Mark(self._now(), self._gate.closed_s, child, 0.0 if use is None else use.seconds)

    def _found(self, seconds: float, child: Child | None) -> str | None:
        """None if the job computes, or waits for something else."""
        if self._gate.closed_s - self._mark.closed_s >= _MOSTLY_CLOSED * seconds:
            return (
                "Waiting: clients' requests keep the server busy, and the job is stopped for them; on a server that is "
                "never idle, start it with --finetune-yield share"
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
