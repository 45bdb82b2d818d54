"""News: what a trainer has told in its file of events since somebody looked."""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from engine.command_io.finetuning.events import JobEvent
from server.finetuning.jobs.record import FinetuneCheckpoint, FinetuneRecord

_MOST_BYTES = 4 << 20  # of events that are taken at a time
_NO_METRICS = ("checkpoint", "epoch", "step")

_decode = msgspec.json.Decoder(JobEvent).decode


@dataclass(frozen=True, slots=True)
class News:
    """size: of the file up to the last of the events. Of these: the steps that are new, and those that become events of
    the job, each step once. checkpoints: that are new."""

    size: int
    events: list[JobEvent]
    steps: list[JobEvent]
    kept: list[JobEvent]
    checkpoints: list[FinetuneCheckpoint]


def news_of(record: FinetuneRecord, data: bytes) -> News:
    """data: the lines behind those that the record knows of. A trainer that was killed tells of some steps again."""
    events = [event for line in data.splitlines() if (event := _read(line)) is not None]
    steps: list[JobEvent] = []
    kept: list[JobEvent] = []
    checkpoints: dict[int, FinetuneCheckpoint] = {}
    last, known = record.step, {each.step for each in record.checkpoints}
    for event in events:
        if event.kind != "metrics":
            kept.append(event)
        elif event.data.get("step", 0) > last:
            last = event.data["step"]
            steps.append(event)
            kept.append(event)
        if "checkpoint" in event.data and (step := event.data["step"]) not in known:
            checkpoints[step] = FinetuneCheckpoint(step=step, created_at=int(event.created_at), metrics=_metrics(event))
    return News(record.events_bytes + len(data), events, steps, kept, list(checkpoints.values()))


def size_of(path: Path) -> int:
    """Zero if there is no such file."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def new_lines(path: Path, offset: int) -> bytes:
    """Whole lines behind `offset`; a long file comes in parts."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(_MOST_BYTES)
    except FileNotFoundError:
        return b""
    return data[: data.rfind(b"\n") + 1]


def _read(line: bytes) -> JobEvent | None:
    """None for a line that a crash cut."""
    try:
        return _decode(line)
    except msgspec.DecodeError:
        return None


def _metrics(event: JobEvent) -> dict[str, float]:
    return {
        name: value for name, value in event.data.items() if isinstance(value, int | float) and name not in _NO_METRICS
    }
