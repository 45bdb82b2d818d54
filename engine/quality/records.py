"""headrace_quality.json: quality measurements, stored with the weights and valid until model or options change.

Weights and tokenizer are identified by a hash of their files, so that copies are recognized. Hashing is slow, so the
hash is cached under a fingerprint of the files' names, sizes and times.
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
from models.checkpoints.quantized.registry import LEGACY_CONFIG_FILES
from models.checkpoints.safetensors import INDEX_NAME
from models.progress import ProgressReport
from models.sources.contents import contents_digest
from models.sources.resolve import ModelFiles
from models.system.cache_folder import cache_folder
from models.system.files import set_default_modes

logger = logging.getLogger(__name__)

FILE_NAME = "headrace_quality.json"
_PIECE_BYTES = 8 << 20  # read and hashed at a time
_MAX_STORED = 32  # records and hashes in one file; the oldest are dropped


class Record(msgspec.Struct, frozen=True):
    """A quality measurement. weights: hash of the model's files. key: everything else that the result depends on."""

    key: dict[str, str]
    quality: Quality
    weights: str = ""


class _File(msgspec.Struct):
    records: list[Record] = []
    hashes: dict[str, str] = {}  # fingerprint of the files -> hash of their contents

    def add_hash(self, fingerprint: str, weights: str) -> None:
        others = [each for each in self.hashes.items() if each[0] != fingerprint]
        self.hashes = dict([*others, (fingerprint, weights)][-_MAX_STORED:])

    def add_record(self, record: Record) -> None:
        others = [each for each in self.records if (each.key, each.weights) != (record.key, record.weights)]
        self.records = [*others, record][-_MAX_STORED:]


class QualityRecords:
    """The stored quality measurements of one model. Nothing is stored if the model's files have changed since this
    object was created."""

    def __init__(self, files: ModelFiles, progress: ProgressReport, *, final_folder: Path | None = None) -> None:
        """progress: called with ("hash weights", bytes done, total bytes, "B"). final_folder: the path that the model's
        folder will be moved to, if it will."""
        folder = (files.root or files.gguf[0].parent).resolve()
        name = hashlib.sha256(str(final_folder or folder).encode()).hexdigest()[:32]
        self._files = files
        self._progress = progress
        self._path = folder / FILE_NAME
        self._display_path = (final_folder or folder) / FILE_NAME
        self._cache_path = cache_folder() / "quality" / f"{name}.json"
        self._paths = self._path, self._cache_path
        self._fingerprint = _fingerprint(files)
        self._hash = ""  # once it is known

    def find(self, key: Mapping[str, str], *, is_requested: bool = True) -> Quality | None:
        """Return the quality measured with this key and weights with the same contents, or None. is_requested: whether
        the user asked for it, and wants to know why it is measured again."""
        files = [_read(path, warns=True) for path in self._paths]
        found = [record for file in files for record in file.records if record.key == key]
        if not found:
            if any(file.records for file in files):
                logger.log(
                    logging.INFO if is_requested else logging.DEBUG,
                    "%s has no quality with these options, kernels and version of headrace",
                    self._display_path,
                )
            return None
        weights = self._known_hash(files)
        if not weights and (weights := self._compute_hash()):
            self._change(lambda file: file.add_hash(self._fingerprint, weights))
        quality = next((record.quality for record in found if record.weights == weights), None) if weights else None
        if weights and quality is None:
            logger.info("%s has the quality of other weights than these", self._display_path)
        return quality

    def store(self, key: Mapping[str, str], quality: Quality) -> None:
        """Store a quality next to the weights, or in the cache folder if that fails, replacing an earlier one.

        Errors are logged and not raised.
        """
        weights = self._known_hash([_read(path) for path in self._paths]) or self._compute_hash()
        if not weights:
            return

        def add(file: _File) -> None:
            file.add_hash(self._fingerprint, weights)
            file.add_record(Record(dict(key), quality, weights))

        self._change(add)

    def weights_hash(self) -> str:
        """Return a hash of the contents of weights and tokenizer; "" if they cannot be read or have changed.

        It is remembered in the cache folder, since this caller may have measured no quality.
        """
        if _fingerprint(self._files) != self._fingerprint:
            logger.warning("the files of %s have changed since they were loaded", self._files.origin)
            return ""
        if weights := self._known_hash(map(_read, self._paths)):
            return weights
        if weights := self._compute_hash():
            try:
                self._cache_path.parent.mkdir(parents=True, exist_ok=True)
                _rewrite(self._cache_path, lambda file: file.add_hash(self._fingerprint, weights))
            except OSError as error:
                logger.info("%s cannot be written (%s): the next start hashes again", self._cache_path, error.strerror)
        return weights

    def weights_samples(self) -> str:
        """Return a digest of samples of the same files: quick, but a few changed bytes may not change it.

        Raises OSError if they cannot be read.
        """
        return contents_digest(_paths(self._files))

    def _known_hash(self, files: Iterable[_File]) -> str:
        return next(filter(None, [self._hash, *(file.hashes.get(self._fingerprint) for file in files)]), "")

    def _compute_hash(self) -> str:
        """Hash the weights; return "" if they cannot be read or have changed."""
        try:
            weights = _hash_of(self._files, self._progress)
        except OSError as error:
            logger.warning(
                "the weights cannot be read again (%s): nothing is looked up or stored by their contents", error
            )
            return ""
        if _fingerprint(self._files) != self._fingerprint:
            logger.warning(
                "the weights have changed since they were loaded: nothing is looked up or stored by their contents"
            )
            return ""
        self._hash = weights
        return weights

    def _change(self, change: Callable[[_File], None]) -> None:
        try:
            _rewrite(self._path, change)
        except OSError as error:
            refused = f"{self._display_path} cannot be written ({error.strerror})"
            try:
                self._cache_path.parent.mkdir(parents=True, exist_ok=True)
                _rewrite(self._cache_path, change)
            except OSError as second:
                logger.warning("%s, nor can %s (%s)", refused, self._cache_path, second.strerror)
            else:
                logger.warning("%s; the measured quality is stored in %s", refused, self._cache_path)


def _paths(files: ModelFiles) -> list[Path]:
    """Return the files that determine a model's predictions: weights, how to read them, and tokenizer."""
    root = files.root
    others = [] if root is None else [root / name for name in (*LEGACY_CONFIG_FILES, INDEX_NAME)]
    return sorted({*files.weight_files, *files.tokenizer_files, *(path for path in others if path.exists())})


def _fingerprint(files: ModelFiles) -> str:
    """Return a hash of the files' names, sizes, times and inodes, without reading their contents."""
    digest = hashlib.sha256()
    for path in _paths(files):
        digest.update(path.name.encode(errors="surrogateescape"))
        with contextlib.suppress(OSError):  # the next read of the file reports it
            status = path.stat()
            visible = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
            digest.update(f"\0{visible}\0".encode())
    return digest.hexdigest()[:32]


def _hash_of(files: ModelFiles, progress: ProgressReport) -> str:
    """Return a hash of the files' sizes and contents. Raises OSError."""
    paths = _paths(files)
    total, done = sum(path.stat().st_size for path in paths), 0
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                digest.update(piece)
                done += len(piece)
                progress("hash weights", done, total, "B")
    return digest.hexdigest()[:32]


def _read(path: Path, *, warns: bool = False) -> _File:
    """Read a file of records; return an empty one if it is missing or cannot be read."""
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
        for record in file.records:
            _check(record.quality)
        return file
    except (FileNotFoundError, NotADirectoryError):
        return _File()
    except (OSError, ValueError, RecursionError) as error:  # ValueError: msgspec's errors and invalid UTF-8
        if warns:
            logger.warning("%s cannot be read (%s), so its record of the quality is not used", path, error)
        return _File()


def _check(quality: Quality) -> None:
    """Raise ValueError if the numbers cannot come from a measurement."""
    numbers = (quality.kl_divergence, quality.top1_agreement, quality.perplexity, quality.reference_perplexity)
    is_valid = all(map(math.isfinite, numbers)) and min(quality.perplexity, quality.reference_perplexity) > 0
    if not is_valid or not 0 < quality.num_tokens < 1 << 53:
        raise ValueError("its numbers are not a measured quality")


def _rewrite(path: Path, change: Callable[[_File], None]) -> None:
    file = _read(path)
    change(file)
    descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    partial = Path(name)
    try:
        with open(descriptor, "wb") as stream:
            stream.write(msgspec.json.format(msgspec.json.encode(file)) + b"\n")
        set_default_modes(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
