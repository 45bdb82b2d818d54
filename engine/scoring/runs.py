"""ScoringRuns: all ScoringRequests in an engine, between its messages and its scheduler."""

from collections import Counter

import msgspec

from engine.errors import InvalidRequest
from engine.protocol import AbortReason, RequestOutput, ScoringRequest, ServiceClass, StepStats
from engine.scheduling.fairness.service_rules import SERVICE_RULES
from engine.scheduling.scheduler import Scheduler
from engine.scheduling.sequence import Sequence, SequenceStatus
from engine.scoring.run import ScoringRun


class ScoringRuns:
    """Adds the requests' sequences to the scheduler, and turns their outputs into one for each request.

    A request always has at least one sequence in the scheduler; more only while there are slots that no other sequence
    waits for, and as many as fill the next step beside all others of its class and better ones. So a request with
    hundreds of questions delays those that come after it by few steps. All its sequences have the place of its first in
    the order of service, or it would wait in line for each. Invariants: each open sequence belongs to one run; a run
    that has not ended has an open sequence.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._runs: dict[str, ScoringRun] = {}  # those that have not ended
        self._open: dict[str, tuple[ScoringRun, Sequence]] = {}  # by id of the sequence's request

    def add(self, request: ScoringRequest) -> None:
        """Accept a request. Raises InvalidRequest if it can never be served."""
        run = ScoringRun(request)
        self._add_next(run)
        self._runs[request.id] = run

    def abort(self, request_id: str, reason: AbortReason) -> bool:
        """End a request in the next step; return False if it is not one of these, or has ended."""
        run = self._runs.get(request_id)
        if run is not None:
            self._abort_open(run, reason)
        return run is not None

    def collect(self, outputs: list[RequestOutput]) -> list[RequestOutput]:
        """Return a step's outputs, with the outputs of sequences replaced by one for each request that ends. Add the
        sequences that are needed next. Call after `Scheduler.update`."""
        if not self._open:
            return outputs
        collected = []
        for output in outputs:
            if output.id not in self._open:
                collected.append(output)
                continue
            run, sequence = self._open.pop(output.id)
            if not run.has_ended and (whole := run.receive(output, sequence)) is not None:
                collected.append(self._end(run, whole))
            for each in run.take_left():
                self._scheduler.forget_tail(each)
        return collected + self._add_due()

    def count_once(self, stats: StepStats) -> StepStats:
        """Return the stats with each request counted once among those that run and wait, and with the tokens of the
        questions that started requests have left."""
        if not self._open:
            return stats
        statuses: dict[ScoringRun, set[SequenceStatus]] = {}
        changes: Counter[str] = Counter()
        for run, sequence in self._open.values():
            statuses.setdefault(run, set()).add(sequence.status)
            changes.subtract(_gauges(run.request.service_class, sequence.status))
        for run, of_run in statuses.items():
            if run.has_ended:  # its aborted sequences are left for a step
                continue
            if run.has_first and SERVICE_RULES[run.request.service_class].is_counted:
                changes["pending_prompt_tokens"] += run.num_due_tokens
            changes.update(_gauges(run.request.service_class, _status(run, of_run)))
        return msgspec.structs.replace(stats, **{name: getattr(stats, name) + each for name, each in changes.items()})

    def _add_due(self) -> list[RequestOutput]:
        """Add sequences, one of each run in turn, until there is no slot to spare or no run needs any; return the
        outputs of runs that cannot be served."""
        refused: list[RequestOutput] = []
        due = [run for run in self._runs.values() if run.has_due]
        if not due:
            return refused
        budget = self._scheduler.max_num_batched_tokens
        pending = self._scheduler.num_pending_by_rank()
        while due:
            added = []
            for run in due:
                service_class = run.request.service_class
                rank = SERVICE_RULES[service_class].rank
                num_before = sum(number for each, number in pending.items() if each <= rank)
                if run.num_open and (num_before >= budget or self._scheduler.num_spare_slots(service_class) <= 0):
                    continue
                try:
                    pending[rank] += self._add_next(run).num_to_compute
                    added.append(run)
                except InvalidRequest as error:
                    refused.append(self._end(run, run.refuse(str(error))))
            due = [run for run in added if run.has_due]
        return refused

    def _add_next(self, run: ScoringRun) -> Sequence:
        request, continues = run.take_next()
        num_shared = len(run.request.prompt_ids)
        sequence = self._scheduler.add(
            request,
            num_shared=num_shared,
            prefix_ends=() if run.leader else tuple(run.request.branch_points),
            continues=continues,
            part_of=run.leader,
        )
        run.leader = run.leader or sequence
        self._open[request.id] = run, sequence
        return sequence

    def _end(self, run: ScoringRun, output: RequestOutput) -> RequestOutput:
        del self._runs[run.request.id]
        self._abort_open(run, AbortReason.CLIENT_GONE)
        for each in (run.leader, *run.followed):
            if each is not None:
                self._scheduler.forget_tail(each)
        return output

    def _abort_open(self, run: ScoringRun, reason: AbortReason) -> None:
        for request_id in run.open_ids:
            self._scheduler.abort(request_id, reason)


def _status(run: ScoringRun, statuses: set[SequenceStatus]) -> SequenceStatus:
    """Return the status of a request whose open sequences have these. Between two sequences it runs."""
    if SequenceStatus.PAUSED in statuses:
        return SequenceStatus.PAUSED
    return SequenceStatus.RUNNING if run.has_first or SequenceStatus.RUNNING in statuses else SequenceStatus.WAITING


def _gauges(service_class: ServiceClass, status: SequenceStatus) -> list[str]:
    """Return the fields of StepStats that count sequences of this class and status."""
    if service_class is ServiceClass.BATCH:
        return [f"{status.name.lower()}_batch"]
    if status is SequenceStatus.WAITING and service_class is not ServiceClass.INTERACTIVE:
        return ["waiting", f"waiting_{service_class.value}"]
    return [status.name.lower()]
