"""headrace_quality.json: measured qualities, kept beside the weights and found again while nothing has changed.

Weights are known by a hash of their files, so that copies are known too. It takes a while to make, and is kept with the
names, sizes and times of the files that it is of: it is made again where these differ.
"""

import contextlib
import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from engine.file_modes import give_usual_modes
from engine.protocol import Quality
from models.cache import cache_folder
from models.loaded import ProgressReport
from models.sources import ModelFiles

logger = logging.getLogger(__name__)

FILE_NAME = "headrace_quality.json"
_PIECE = 8 << 20  # bytes that are read and hashed at once
_MAX_KEPT = 32  # records and hashes in one file; the oldest go


class Record(msgspec.Struct, frozen=True):
    """What was measured, and of what. weights: hash of their files. key: all else that decides the result."""

    key: dict[str, str]
    quality: Quality
    weights: str = ""


class _File(msgspec.Struct):
    records: list[Record] = []
    hashes: dict[str, str] = {}  # what can be seen of the files without reading them -> their hash

    def remember(self, state: str, weights: str) -> None:
        others = [each for each in self.hashes.items() if each[0] != state]
        self.hashes = dict([*others, (state, weights)][-_MAX_KEPT:])

    def add(self, record: Record) -> None:
        others = [each for each in self.records if (each.key, each.weights) != (record.key, record.weights)]
        self.records = [*others, record][-_MAX_KEPT:]


class Records:
    """Of one model. Its files are to be, when something is kept, what they were when this was made."""

    def __init__(self, files: ModelFiles, progress: ProgressReport, *, later: Path | None = None) -> None:
        """progress is called with ("hash weights", bytes done, bytes in all, "B") where they are hashed. later: the
        folder's name from now on, if it is to be another."""
        folder = (files.root or files.gguf[0].parent).resolve()
        name = hashlib.sha256(str(later or folder).encode()).hexdigest()[:32]
        self._files = files
        self._progress = progress
        self._beside = folder / FILE_NAME
        self._shown = (later or folder) / FILE_NAME
        self._cached = cache_folder() / "quality" / f"{name}.json"
        self._state = _state(files)

    def find(self, key: Mapping[str, str]) -> Quality | None:
        """The quality that was measured with this key, of these weights, whatever their files' names and times."""
        files = [_read(path, warns=True) for path in self._paths]
        found = [record for file in files for record in file.records if record.key == key]
        if not found:
            if any(file.records for file in files):
                logger.info("%s has no quality with these options, kernels and version of headrace", self._shown)
            return None
        weights = self._known(files)
        if not weights and (weights := self._hashed()):
            self._change(lambda file: file.remember(self._state, weights))
        quality = next((record.quality for record in found if record.weights == weights), None) if weights else None
        if weights and quality is None:
            logger.info("%s has qualities of other weights than these", self._shown)
        return quality

    def keep(self, key: Mapping[str, str], quality: Quality) -> None:
        """Write it beside the weights, in place of one of the same; into the cache where that cannot be written.

        Nothing that hinders it is an error: it is logged.
        """
        weights = self._known([_read(path) for path in self._paths]) or self._hashed()
        if not weights:
            return

        def add(file: _File) -> None:
            file.remember(self._state, weights)
            file.add(Record(dict(key), quality, weights))

        self._change(add)

    def _known(self, files: Iterable[_File]) -> str:
        return next(filter(None, (file.hashes.get(self._state) for file in files)), "")

    def _hashed(self) -> str:
        """Empty if the weights cannot be read, or are no more what they were."""
        try:
            weights = _hash(self._files, self._progress)
        except OSError as error:
            logger.warning("the weights cannot be read again (%s): no quality of theirs is found or kept", error)
            return ""
        if _state(self._files) != self._state:
            logger.warning("the weights have changed since they were loaded: no quality of theirs is found or kept")
            return ""
        return weights

    @property
    def _paths(self) -> tuple[Path, Path]:
        return self._beside, self._cached

    def _change(self, change: Callable[[_File], None]) -> None:
        try:
            _rewrite(self._beside, change)
        except OSError as error:
            logger.warning(
                "%s cannot be written (%s); what is known of the quality is kept in %s",
                self._shown,
                error.strerror,
                self._cached,
            )
            try:
                self._cached.parent.mkdir(parents=True, exist_ok=True)
                _rewrite(self._cached, change)
            except OSError as second:
                logger.warning("%s cannot be written either (%s)", self._cached, second.strerror)


def _state(files: ModelFiles) -> str:
    """What can be seen without reading them: names, sizes and times of change."""
    digest = hashlib.sha256()
    for path in sorted(files.weight_files):
        digest.update(path.name.encode())
        with contextlib.suppress(OSError):  # whoever reads the file will say it
            status = path.stat()
            digest.update(f"\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:32]


def _hash(files: ModelFiles, progress: ProgressReport) -> str:
    """Of the sizes and contents of all files that are, or decide, the weights. Raises OSError."""
    paths = sorted(files.weight_files)
    total, done = sum(path.stat().st_size for path in paths), 0
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
                done += len(piece)
                progress("hash weights", done, total, "B")
    return digest.hexdigest()[:32]


def _read(path: Path, *, warns: bool = False) -> _File:
    """Empty where there is no such file or where it is not ours."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_File)
    except (FileNotFoundError, NotADirectoryError):
        return _File()
    except (OSError, msgspec.DecodeError) as error:
        if warns:
            logger.warning("%s cannot be read (%s), so what it says of the quality is not used", path, error)
        return _File()


def _rewrite(path: Path, change: Callable[[_File], None]) -> None:
    file = _read(path)
    change(file)
    descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    partial = Path(name)
    try:
        with open(descriptor, "wb") as stream:
            stream.write(msgspec.json.format(msgspec.json.encode(file)) + b"\n")
        give_usual_modes(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
