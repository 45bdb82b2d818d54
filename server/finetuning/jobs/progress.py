"""Progress: turns the trainer's events into events of the job, served checkpoints, and an estimated finish time."""

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import msgspec

from engine.command_io.finetuning.events import JobEvent, parse_events
from engine.command_io.finetuning.job import JobFolder
from server.finetuning.jobs.objects import for_clients
from server.finetuning.jobs.publisher import Publisher
from server.finetuning.jobs.record import FinetuningCheckpoint, FinetuningRecord, Resolved
from server.finetuning.jobs.table import FinetuningJournal
from server.jobs.environment import JobEnvironment
from server.schemas.finetuning_answers import FinetuningError, FinetuningStatus

_WINDOW_STEPS = 20  # whose pace the estimate goes by
_ESTIMATE_S = 2.0  # between two estimates that are stored without another reason
_MAX_BYTES = 4 << 20  # of events that are read at a time
_NO_METRICS = ("checkpoint", "epoch", "step")


class Progress:
    """Reads the trainer's events of one job, from the position stored in the job's record."""

    def __init__(
        self, journal: FinetuningJournal, folder: JobFolder, env: JobEnvironment, publisher: Publisher
    ) -> None:
        self.error: FinetuningError | None = None  # that the current process has reported
        self._journal = journal
        self._folder = folder
        self._env = env
        self._publisher = publisher
        self._steps_s: deque[tuple[int, float]] = deque(maxlen=_WINDOW_STEPS + 1)  # step, and time.monotonic()
        self._estimated_s = 0.0

    @property
    def is_complete(self) -> bool:
        """Whether the trainer has written the final adapter."""
        return self._journal.record.trained_tokens is not None

    async def begin(self) -> None:
        """Reset before a start of the trainer process."""
        self.error = None
        self._steps_s.clear()
        size = await asyncio.to_thread(_size_of, self._folder.events)
        if size < self._journal.record.events_bytes:  # a power cut took the file's end, and the process appends

            def edit(stored: FinetuningRecord) -> None:
                stored.events_bytes = size

            await self._journal.change(edit, status=FinetuningStatus.RUNNING)

    async def take(self) -> bool:
        """Read and store some new events; return whether there may be more. Raises EngineStopped if the server is
        shutting down."""
        record = self._journal.record
        data = await asyncio.to_thread(_new_lines, self._folder.events, record.events_bytes)
        if not data:
            await self._update_estimate()
            return False
        new = _new_events(record, data)
        try:
            return await self._store(record, new)
        finally:
            stored = {each.step for each in self._journal.record.checkpoints}
            for checkpoint in new.checkpoints:  # one that is not stored is reported again by the next process
                if checkpoint.step not in stored:
                    self._publisher.withdraw(record, checkpoint.step)

    async def _store(self, record: FinetuningRecord, new: "_NewEvents") -> bool:
        """Serve new checkpoints, and store the new events; return False if a client stopped the job."""
        events = [self._event_for_clients(event) for event in new.kept]
        for checkpoint in new.checkpoints:
            events.append(await self._publish(record, checkpoint))
        self._note_steps(new.steps)
        estimated_s = self._estimate_finish()

        def edit(stored: FinetuningRecord) -> None:
            stored.events_bytes = new.size
            stored.step = max([stored.step, *(event.data["step"] for event in new.steps)])
            stored.checkpoints = [*stored.checkpoints, *new.checkpoints]
            stored.estimated_finish = estimated_s or stored.estimated_finish
            for event in new.events:
                _apply(stored, event)

        is_durable = len(new.kept) > len(new.steps)
        is_stored = await self._journal.change(edit, events, status=FinetuningStatus.RUNNING, is_durable=is_durable)
        if is_stored:
            self._env.metrics.add("finetune_steps_total", len(new.steps))
            self._env.metrics.add("finetune_tokens_total", sum(each.data.get("tokens", 0) for each in new.steps))
        return is_stored

    def _event_for_clients(self, event: JobEvent) -> JobEvent:
        if "sample" in event.data or "expected" in event.data:  # the words of the model and of the file
            return event
        message = for_clients(event.message)
        if event.level == "error":
            self.error = FinetuningError(event.data.get("code", "training_failed"), message)
        return msgspec.structs.replace(event, message=message)

    async def _publish(self, record: FinetuningRecord, checkpoint: FinetuningCheckpoint) -> JobEvent:
        name = record.checkpoint_name(checkpoint.step)
        reason = await self._publisher.publish(record, checkpoint.step)
        if reason is None:
            return self._journal.event(f"Checkpoint created at step {checkpoint.step}: {name}", step=checkpoint.step)
        return self._journal.event(f"The checkpoint {name} is not served: {reason}", level="warn")

    # --- estimated finish ---------------------------------------------------------------------------------------------

    def _note_steps(self, steps: list[JobEvent]) -> None:
        now_s = time.monotonic()
        for event in steps:
            self._steps_s.append((event.data["step"], now_s))

    def _estimate_finish(self) -> int | None:
        """Return the estimated Unix timestamp of the finish, extrapolated from the average duration of recent steps,
        pauses included; None before two steps are known."""
        resolved = self._journal.record.resolved
        if resolved is None or len(self._steps_s) < 2:
            return None
        (first, began_s), (last, _) = self._steps_s[0], self._steps_s[-1]
        if last == first:
            return None
        step_s = (time.monotonic() - began_s) / (last - first)
        return int(self._journal.now_s + step_s * (resolved.total_steps - last))

    async def _update_estimate(self) -> None:
        """Recompute and store the estimate from time to time while no new steps arrive."""
        if time.monotonic() - self._estimated_s < _ESTIMATE_S or (estimated_s := self._estimate_finish()) is None:
            return
        self._estimated_s = time.monotonic()

        def edit(record: FinetuningRecord) -> None:
            record.estimated_finish = estimated_s

        await self._journal.change(edit, status=FinetuningStatus.RUNNING, is_durable=False)


def _apply(record: FinetuningRecord, event: JobEvent) -> None:
    data = event.data
    if "n_epochs" in data and "total_steps" in data:
        record.resolved = msgspec.convert(data, Resolved)
    if "trained_tokens" in data:
        record.trained_tokens = data["trained_tokens"]


# --- the trainer's file of events -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _NewEvents:
    """Events that the trainer wrote since the last read. size: offset in the file after them. steps: metrics events of
    new steps. kept: the events to store, without steps that were reported before. checkpoints: the new checkpoints."""

    size: int
    events: list[JobEvent]
    steps: list[JobEvent]
    kept: list[JobEvent]
    checkpoints: list[FinetuningCheckpoint]


def _new_events(record: FinetuningRecord, data: bytes) -> _NewEvents:
    """Parse new lines of the events file. Drops steps that a restarted trainer reports again."""
    events = parse_events(data)
    steps: list[JobEvent] = []
    kept: list[JobEvent] = []
    checkpoints: dict[int, FinetuningCheckpoint] = {}
    last, known = record.step, {each.step for each in record.checkpoints}
    for event in events:
        if event.kind != "metrics":
            kept.append(event)
        elif event.data.get("step", 0) > last:
            last = event.data["step"]
            steps.append(event)
            kept.append(event)
        if "checkpoint" in event.data and (step := event.data["step"]) not in known:
            checkpoints[step] = FinetuningCheckpoint(
                step=step, created_at=int(event.created_at), metrics=_metrics(event)
            )
    return _NewEvents(record.events_bytes + len(data), events, steps, kept, list(checkpoints.values()))


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _new_lines(path: Path, offset: int) -> bytes:
    """Read whole lines after `offset`, at most a few megabytes at a time."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(_MAX_BYTES)
    except FileNotFoundError:
        return b""
    return data[: data.rfind(b"\n") + 1]


def _metrics(event: JobEvent) -> dict[str, float]:
    return {
        name: value for name, value in event.data.items() if isinstance(value, int | float) and name not in _NO_METRICS
    }
