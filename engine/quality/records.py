"""headrace_quality.json: measured qualities, kept beside the weights and found again while nothing has changed."""

import hashlib
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from engine.file_modes import give_usual_modes
from engine.protocol import Quality
from models.cache import cache_folder
from models.sources import ModelFiles

logger = logging.getLogger(__name__)

FILE_NAME = "headrace_quality.json"
_MAX_RECORDS = 32  # of one folder; the oldest go


class Record(msgspec.Struct, frozen=True):
    """What was measured, and of what: `key` is all that decides the result."""

    key: dict[str, str]
    quality: Quality


class _File(msgspec.Struct):
    records: list[Record] = []


def weights_key(files: ModelFiles) -> str:
    """Changes with every file of a model: names, sizes and times of change."""
    digest = hashlib.sha256()
    for path in sorted(files.weight_files):
        status = path.stat()
        digest.update(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:32]


def find(files: ModelFiles, key: Mapping[str, str]) -> Quality | None:
    """The quality that was measured with exactly this key, beside the weights or in the cache."""
    for path in _places(files):
        for record in _read(path):
            if record.key == key:
                return record.quality
    return None


def keep(files: ModelFiles, key: Mapping[str, str], quality: Quality) -> None:
    """Write it beside the weights, in place of one with the same key; into the cache where that cannot be written."""
    beside, cached = _places(files)
    try:
        _write(beside, key, quality)
    except OSError as error:
        logger.warning("%s cannot be written (%s); the quality is kept in %s", beside, error.strerror, cached)
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            _write(cached, key, quality)
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


def _write(path: Path, key: Mapping[str, str], quality: Quality) -> None:
    others = [record for record in _read(path) if record.key != key]
    file = _File([*others, Record(dict(key), quality)][-_MAX_RECORDS:])
    with tempfile.NamedTemporaryFile("wb", dir=path.parent, suffix=".partial", delete=False) as partial:
        partial.write(msgspec.json.format(msgspec.json.encode(file)) + b"\n")
    give_usual_modes(Path(partial.name))
    os.replace(partial.name, path)
