"""CacheEntry: a model or other files in a cache, listed and removed as one."""

import contextlib
import enum
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path


class EntryKind(enum.StrEnum):
    """Kinds of cache entries: models (hub, wheels), calibrations of their decisions, and files that were derived from
    models and can be made again."""

    HUB = "hub"
    WHEELS = "wheels"
    PACKED_WEIGHTS = "packed weights"
    KERNELS = "kernels"
    TOKENIZERS = "tokenizers"
    QUALITY = "quality"
    CALIBRATION = "calibration"

    @property
    def is_model(self) -> bool:
        return self in (EntryKind.HUB, EntryKind.WHEELS)


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A model in a cache, or files that were made from models.

    name: the MODEL argument for a model, else the kind. root: the entry's cache; no file outside of it is removed.
    paths: files, folders and links to remove. contents: the files that num_bytes counts. used_s: the last use, as
    time.time(). locks: files that are locked while the model is fetched; their names may be patterns, since such files
    come and go. derived: entries that were made from this one.
    """

    name: str
    kind: EntryKind
    root: Path
    paths: tuple[Path, ...]
    contents: tuple[Path, ...]
    num_bytes: int
    used_s: float
    is_complete: bool = True
    locks: tuple[Path, ...] = ()
    derived: tuple["CacheEntry", ...] = field(default=())

    @property
    def short_name(self) -> str:
        """The name; for a model in many wheels, the first wheel and the number of further wheels."""
        first, *others = self.name.split("+")
        return f"{first}+{len(others)}" if self.kind is EntryKind.WHEELS and others else self.name

    @property
    def all_bytes(self) -> int:
        """Bytes of the entry and its derived entries."""
        return self.num_bytes + sum(entry.num_bytes for entry in self.derived)

    @property
    def last_used_s(self) -> float:
        """Time of the last use of the entry or its derived entries: loading a model may read only the derived files."""
        return max([self.used_s, *(entry.used_s for entry in self.derived)])


def measure_files(files: Iterable[Path], *, are_read_by_listing: bool = False) -> tuple[int, float]:
    """Return the files' total bytes, and the time of the last read or write. Missing files are skipped.

    are_read_by_listing: whether listing the caches reads these files, so that only writes count as use. Most systems
    record only the first read of a day, or none; models/caches/uses.py records each load of a model.
    """
    num_bytes, used_s = 0, 0.0
    for file in files:
        with contextlib.suppress(OSError):
            status = file.stat()
            num_bytes += status.st_size
            used_s = max(used_s, status.st_mtime, 0.0 if are_read_by_listing else status.st_atime)
    return num_bytes, used_s


def files_below(folder: Path) -> list[Path]:
    """Return all files below a folder, without following links to folders; none if there is no such folder."""
    return [Path(parent, name) for parent, _, names in os.walk(folder) for name in names]
