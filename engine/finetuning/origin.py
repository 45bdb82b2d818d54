"""Origin of a job's saved state: a digest of its options and examples, and refusal of a state of another job."""

import hashlib
from typing import Any

import msgspec
from safetensors import SafetensorError, safe_open

from engine.command_io.finetuning.job import JobFolder, write_atomically
from engine.errors import StartupError


class _Origin(msgspec.Struct, frozen=True):
    """Options by name, and hashes of the rows of each file."""

    options: dict[str, Any]
    rows: dict[str, list[str]]


def job_digest(folder: JobFolder) -> str:
    """Return a hash of the job and its examples."""
    digest = hashlib.blake2b(digest_size=16)
    for path in (folder.job, folder.train, folder.valid, folder.prompts):
        digest.update(path.read_bytes() if path.exists() else b"-")
    return digest.hexdigest()


def save_origin(folder: JobFolder) -> None:
    """Store what the job's state will be trained from. Raises OSError."""
    write_atomically(folder.origin, msgspec.json.encode(_origin(folder)))


def check_origin(folder: JobFolder, digest: str) -> None:
    """Raise StartupError if the folder has the state of a job with another digest. A state that cannot be read is
    reported where it is loaded."""
    try:
        with safe_open(folder.state, "pt") as file:
            known = msgspec.json.decode(file.metadata()["training"])["digest"]
    except (OSError, SafetensorError, KeyError, TypeError, msgspec.DecodeError):
        return
    if known != digest:
        raise another_job(folder)


def another_job(folder: JobFolder) -> StartupError:
    """Return the error for the state of another job, with what has changed, if that is known."""
    try:
        changes = _changes(msgspec.json.decode(folder.origin.read_bytes(), type=_Origin), _origin(folder))
    except (OSError, msgspec.DecodeError):
        changes = []
    what = ", ".join(changes) or "its examples or options, or how headrace reads them"
    return StartupError(
        f"{folder.path} has the state of another job; changed: {what}; give another --out, or remove this folder to "
        "start again"
    )


def _origin(folder: JobFolder) -> _Origin:
    options = dict(_flat("", msgspec.json.decode(folder.job.read_bytes())))
    files = (folder.train, folder.valid, folder.prompts)
    return _Origin(options, {path.name: _hashes(path.read_bytes()) for path in files if path.exists()})


def _flat(prefix: str, value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(prefix, value)]
    return [pair for name, each in value.items() for pair in _flat(f"{prefix}.{name}" if prefix else name, each)]


def _hashes(rows: bytes) -> list[str]:
    return [hashlib.blake2b(row, digest_size=6).hexdigest() for row in rows.splitlines()]


def _changes(old: _Origin, new: _Origin) -> list[str]:
    names = dict.fromkeys([*old.options, *new.options])
    changes = [
        f"{name.rpartition('.')[2]} (was {old.options.get(name)}, is {new.options.get(name)})"
        for name in names
        if old.options.get(name) != new.options.get(name)
    ]
    for file in dict.fromkeys([*old.rows, *new.rows]):
        before, after = old.rows.get(file, []), new.rows.get(file, [])
        if before != after:
            pairs = zip(before, after, strict=False)
            first = next((index for index, (one, two) in enumerate(pairs) if one != two), min(len(before), len(after)))
            changes.append(f"{file} from example {first + 1} on ({len(before)} examples, now {len(after)})")
    return changes
