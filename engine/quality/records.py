"""headrace_quality.json: measured qualities, kept beside the weights and found again while nothing has changed.

Weights and tokenizer are known by a hash of their files, so that copies are known too. It takes a while to make, and is
kept with what can be seen of the files that it is of: it is made again where that differs.
"""

import contextlib
import hashlib
import logging
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from engine.protocol import Quality
from models.progress import ProgressReport
from models.sources.resolve import ModelFiles
from models.system.cache_folder import cache_folder
from models.system.file_modes import give_usual_modes

logger = logging.getLogger(__name__)

FILE_NAME = "headrace_quality.json"
_PIECE = 8 << 20  # bytes that are read and hashed at once
_MAX_KEPT = 32  # records and hashes in one file; the oldest go


class Record(msgspec.Struct, frozen=True):
    """What was measured, and of what. weights: hash of the model's files. key: all else that decides the result."""

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
        self._hash = ""  # once it is known

    def find(self, key: Mapping[str, str]) -> Quality | None:
        """The quality that was measured with this key, of these weights, whatever their files' names and times."""
        files = [_read(path, warns=True) for path in self._paths]
        found = [record for file in files for record in file.records if record.key == key]
        if not found:
            if any(file.records for file in files):
                logger.info("%s has no quality with these options, kernels and version of headrace", self._shown)
            return None
        weights = self._known(files)
        if not weights and (weights := self._made()):
            self._change(lambda file: file.remember(self._state, weights))
        quality = next((record.quality for record in found if record.weights == weights), None) if weights else None
        if weights and quality is None:
            logger.info("%s has qualities of other weights than these", self._shown)
        return quality

    def keep(self, key: Mapping[str, str], quality: Quality) -> None:
        """Write it beside the weights, in place of one of the same; into the cache where that cannot be written.

        Nothing that hinders it is an error: it is logged.
        """
        weights = self._known([_read(path) for path in self._paths]) or self._made()
        if not weights:
            return

        def add(file: _File) -> None:
            file.remember(self._state, weights)
            file.add(Record(dict(key), quality, weights))

        self._change(add)

    def _known(self, files: Iterable[_File]) -> str:
        return next(filter(None, [self._hash, *(file.hashes.get(self._state) for file in files)]), "")

    def _made(self) -> str:
        """Empty if the weights cannot be read, or are no more what they were."""
        try:
            weights = _hash_of(self._files, self._progress)
        except OSError as error:
            logger.warning("the weights cannot be read again (%s): no quality of theirs is found or kept", error)
            return ""
        if _state(self._files) != self._state:
            logger.warning("the weights have changed since they were loaded: no quality of theirs is found or kept")
            return ""
        self._hash = weights
        return weights

    @property
    def _paths(self) -> tuple[Path, Path]:
        return self._beside, self._cached

    def _change(self, change: Callable[[_File], None]) -> None:
        try:
            _rewrite(self._beside, change)
        except OSError as error:
            refused = f"{self._shown} cannot be written ({error.strerror})"
            try:
                self._cached.parent.mkdir(parents=True, exist_ok=True)
                _rewrite(self._cached, change)
            except OSError as second:
                logger.warning("%s, nor can %s (%s)", refused, self._cached, second.strerror)
            else:
                logger.warning("%s; what is known of the quality is kept in %s", refused, self._cached)


def _paths(files: ModelFiles) -> list[Path]:
    """All files that decide what a model says of a text."""
    return sorted({*files.weight_files, *files.tokenizer_files})


def _state(files: ModelFiles) -> str:
    """What can be seen without reading them: names, sizes, times, and which files they are."""
    digest = hashlib.sha256()
    for path in _paths(files):
        digest.update(path.name.encode(errors="surrogateescape"))
        with contextlib.suppress(OSError):  # whoever reads the file will say it
            status = path.stat()
            seen = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
            digest.update(f"\0{seen}\0".encode())
    return digest.hexdigest()[:32]


def _hash_of(files: ModelFiles, progress: ProgressReport) -> str:
    """Of the sizes and contents. Raises OSError."""
    paths = _paths(files)
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
        file = msgspec.json.decode(path.read_bytes(), type=_File)
        for record in file.records:
            _check(record.quality)
        return file
    except (FileNotFoundError, NotADirectoryError):
        return _File()
    except (OSError, ValueError, RecursionError) as error:  # ValueError: msgspec's errors and invalid UTF-8
        if warns:
            logger.warning("%s cannot be read (%s), so what it says of the quality is not used", path, error)
        return _File()


def _check(quality: Quality) -> None:
    """Raises ValueError for figures that no measurement gives."""
    figures = (quality.kl_divergence, quality.top1_agreement, quality.perplexity, quality.reference_perplexity)
    is_sound = all(map(math.isfinite, figures)) and min(quality.perplexity, quality.reference_perplexity) > 0
    if not is_sound or not 0 < quality.num_tokens < 1 << 53:
        raise ValueError("its figures are no quality's")


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
