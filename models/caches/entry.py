"""CacheEntry: something in a cache that has a name and can be removed."""

import contextlib
import enum
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path


class Kind(enum.StrEnum):
    """Models first, then what was made from them and can be made again."""

    HUB = "hub"
    WHEELS = "wheels"
    PACKED_WEIGHTS = "packed weights"
    KERNELS = "kernels"
    TOKENIZERS = "tokenizers"
    QUALITY = "quality"

    @property
    def is_model(self) -> bool:
        return self in (Kind.HUB, Kind.WHEELS)


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """name: of a model what is typed to serve it; else the kind. root: the cache that it is in, which nothing outside
    of is ever removed for it.

    paths: files and folders to remove, links among them. contents: the files with the bytes. used_s: the last use, as
    time.time(). locks: files that a process which is fetching the model has locked; their names may be patterns, since
    such files come and go. derived: what was made of it.
    """

    name: str
    kind: Kind
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
        """Of a model that comes in many wheels, the first one and how many others there are."""
        first, *others = self.name.split("+")
        return f"{first}+{len(others)}" if self.kind is Kind.WHEELS and others else self.name

    @property
    def all_bytes(self) -> int:
        """With what was made of it."""
        return self.num_bytes + sum(entry.num_bytes for entry in self.derived)

    @property
    def last_used_s(self) -> float:
        """Of the model or of what was made of it, which stands in for its files."""
        return max([self.used_s, *(entry.used_s for entry in self.derived)])


def measure(files: Iterable[Path], *, are_looked_into: bool = False) -> tuple[int, float]:
    """Bytes, and when one of the files was last read or written; files that are gone count nothing.

    are_looked_into: whether to list the caches reads them, too, which is no use: then only writing counts. Most systems
    note the first reading of a day only, or none; models/caches/uses.py notes each start of a model.
    """
    num_bytes, used_s = 0, 0.0
    for file in files:
        with contextlib.suppress(OSError):
            status = file.stat()
            num_bytes += status.st_size
            used_s = max(used_s, status.st_mtime, 0.0 if are_looked_into else status.st_atime)
    return num_bytes, used_s


def files_below(folder: Path) -> list[Path]:
    """Return all files, without following links to folders; none if there is no such folder."""
    return [Path(parent, name) for parent, _, names in os.walk(folder) for name in names]
