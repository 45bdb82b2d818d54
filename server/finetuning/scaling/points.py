"""ScalingPoint: the held-out loss of a finished job; and reading it from the job's folder."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from engine.command_io.finetuning.events import parse_events
from engine.command_io.finetuning.job import JobFolder, write_atomically
from engine.errors import StartupError
from server.finetuning.scaling.design import Chosen


class ScalingPoint(msgspec.Struct, frozen=True):
    """The held-out loss of a job, in nats per token (for DPO, per pair), before and after training. digest: hash of the
    job's files. size: in the unit that the curve varies."""

    digest: str
    size: float
    loss: float
    loss_before: float


def files_digest(files: Mapping[str, bytes]) -> str:
    """Return a hash of named contents."""
    digest = hashlib.blake2b(digest_size=16)
    for name, content in sorted(files.items()):
        digest.update(f"{name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def read_point(path: Path, digest: str) -> ScalingPoint | None:
    """Read a stored point; return None if there is none, or one of other files."""
    try:
        point = msgspec.json.decode(path.read_bytes(), type=ScalingPoint)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return point if point.digest == digest else None


def measure_point(folder: JobFolder, digest: str, size: float) -> ScalingPoint:
    """Return the point of a job that has ended, from its events. Raises StartupError if it has no held-out loss."""
    before, after = held_out_losses(folder)
    return ScalingPoint(digest, size, after, before)


def save_point(path: Path, point: ScalingPoint) -> None:
    """Store a point. Raises OSError."""
    write_atomically(path, msgspec.json.encode(point))


def held_out_losses(folder: JobFolder) -> tuple[float, float]:
    """Return the held-out loss before training and that of the finished adapter. Raises StartupError without one."""
    for data in reversed(_event_data(folder)):
        try:
            return float(data["before"]["valid_loss"]), float(data["after"]["valid_loss"])
        except (KeyError, TypeError):
            continue
    raise StartupError(
        f"{folder.path} has no finished job with a held-out loss; train it to its end with a validation file"
    )


def chosen_hyperparameters(folder: JobFolder) -> Chosen:
    """Return the hyperparameters that the trainer logged when it began. Raises StartupError if it has not."""
    for data in reversed(_event_data(folder)):
        if all(name in data for name in Chosen.__slots__):
            return Chosen(**{name: data[name] for name in Chosen.__slots__})
    raise StartupError(f"{folder.path} has no job that was trained; start it")


def compares_pairs(folder: JobFolder) -> bool:
    """Return whether a job's losses are of preference pairs, by the beta that the trainer logged."""
    return any(data.get("beta") is not None for data in _event_data(folder))


def _event_data(folder: JobFolder) -> list[dict[str, Any]]:
    try:
        return [event.data for event in parse_events(folder.events.read_bytes())]
    except FileNotFoundError:
        return []
