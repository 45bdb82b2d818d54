"""headrace_quality.json: measured qualities, kept beside the weights and found again while nothing has changed.

Files are known by their names, sizes and times. Copies have other times, as a rule: their contents are compared, once,
since what was found is kept with the new times.
"""

import hashlib
import logging
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from engine.file_modes import give_usual_modes
from engine.protocol import Quality
from models.cache import cache_folder
from models.loaded import ProgressReport
from models.sources import ModelFiles

logger = logging.getLogger(__name__)

FILE_NAME = "headrace_quality.json"
_TIMES = "times"  # of the files; the part of a key that copies do not share
_PIECE = 8 << 20  # bytes that are read and hashed at once
_MAX_RECORDS = 32  # of one folder; the oldest go


class Record(msgspec.Struct, frozen=True):
    """What was measured, and of what: `key` is all that decides the result. contents: hash of the weight files."""

    key: dict[str, str]
    quality: Quality
    contents: str = ""


class _File(msgspec.Struct):
    records: list[Record] = []


def files_key(files: ModelFiles) -> dict[str, str]:
    """What tells a model's files from others, as far as one can see without reading them."""
    statuses = [(path.name, path.stat()) for path in sorted(files.weight_files)]
    return {
        "files": _digest(f"{name}\0{status.st_size}" for name, status in statuses),
        _TIMES: _digest(str(status.st_mtime_ns) for _, status in statuses),
    }


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def find(files: ModelFiles, key: Mapping[str, str], progress: ProgressReport) -> Quality | None:
    """The quality that was measured with this key, of these files or of what they are a copy of: beside the weights,
    or in the cache. progress is called with ("compare weights", bytes done, bytes in all, "B") where they are read."""
    records = [record for path in _places(files) for record in _read(path)]
    for record in records:
        if record.key == key:
            return record.quality
    others = [record for record in records if record.contents and _but_times(record.key) == _but_times(key)]
    contents = _contents(files, progress) if others else ""
    for record in others:
        if record.contents == contents:
            _keep(files, Record(dict(key), record.quality, contents))
            return record.quality
    return None


def keep(files: ModelFiles, key: Mapping[str, str], quality: Quality, progress: ProgressReport) -> None:
    """Write it beside the weights, in place of one of files with the same names and sizes; into the cache where that
    cannot be written."""
    _keep(files, Record(dict(key), quality, _contents(files, progress)))


def _but_times(key: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in key.items() if name != _TIMES}


def _contents(files: ModelFiles, progress: ProgressReport) -> str:
    """A hash of all weight files, which are read."""
    paths = sorted(files.weight_files)
    total, done = sum(path.stat().st_size for path in paths), 0
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
                done += len(piece)
                progress("compare weights", done, total, "B")
    return digest.hexdigest()[:32]


def _keep(files: ModelFiles, record: Record) -> None:
    beside, cached = _places(files)
    try:
        _write(beside, record)
    except OSError as error:
        logger.warning("%s cannot be written (%s); the quality is kept in %s", beside, error.strerror, cached)
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            _write(cached, record)
        except OSError as second:
            logger.warning("%s cannot be written either (%s); the quality is not kept", cached, second.strerror)


def _places(files: ModelFiles) -> tuple[Path, Path]:
    folder = (files.root or files.gguf[0].parent).resolve()
    name = hashlib.sha256(str(folder).encode()).hexdigest()[:32]
    return folder / FILE_NAME, cache_folder() / "quality" / f"{name}.json"


def _read(path: Path) -> list[Record]:
    """The records; none where there is no such file or where it is not ours."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_File).records
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, msgspec.DecodeError) as error:
        logger.warning("%s cannot be read (%s), so what it says of the quality is not used", path, error)
        return []


def _write(path: Path, record: Record) -> None:
    others = [other for other in _read(path) if _but_times(other.key) != _but_times(record.key)]
    file = _File([*others, record][-_MAX_RECORDS:])
    descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    partial = Path(name)
    try:
        with open(descriptor, "wb") as stream:
            stream.write(msgspec.json.format(msgspec.json.encode(file)) + b"\n")
        give_usual_modes(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
