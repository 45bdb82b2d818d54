"""WeightCache: files of packed weights in the cache folder, limited to a share of the disk."""

import contextlib
import errno
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from models.progress import ProgressReport
from models.system.cache_folder import cache_folder
from models.weight_cache.index import WeightFileError
from models.weight_cache.weight_file import (
    HUGE_PAGE_BYTES,
    WeightFile,
    can_be_written,
    map_weight_file,
    tensor_bytes,
    write_weight_file,
)

logger = logging.getLogger(__name__)

_SUFFIX = ".weights"
_DISK_FRACTION = 4  # the cache may use a quarter of the disk's free space and its own files together
_RECENT_S = 3600.0
_MIN_HUGE_PAGE_SHARE = 0.75


@dataclass(frozen=True, slots=True)
class WeightCache:
    """A folder of files with packed weights, by key.

    min_bytes: smaller models are not cached, since they load just as fast. requires_huge_pages: save and map only files
    that the system maps in huge pages, since steps would read other files more slowly than the process's memory.
    """

    folder: Path = field(default_factory=lambda: cache_folder() / "weights")
    min_bytes: int = 16 << 20
    requires_huge_pages: bool = True

    def find(self, key: str, progress: ProgressReport) -> WeightFile | None:
        """Map the file of `key`; return None if it is missing, damaged or not in huge pages."""
        path = self.path(key)
        try:
            file = map_weight_file(path, lambda done, total: progress("map weights", done, total, "B"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, WeightFileError) as error:
            logger.warning("%s is not used: %s", path, error)
            return None
        if self.requires_huge_pages and file.huge_page_share < _MIN_HUGE_PAGE_SHARE:
            share = f"{file.huge_page_share:.0%}"
            logger.info("%s is not used: the system maps %s of it in huge pages", path, share)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # the least recently used file is removed first
        return file

    def save(self, key: str, tensors: Mapping[str, torch.Tensor], extra: Any, progress: ProgressReport) -> None:
        """Write a file for the next start. Failures are only logged, since this start does not need the file."""
        needed_bytes = tensor_bytes(tensors)
        if needed_bytes < self.min_bytes or not can_be_written(tensors) or not hasattr(os, "O_TMPFILE"):
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.requires_huge_pages and not self._supports_huge_pages():
                logger.info("packed weights are not cached: files of %s are not mapped in huge pages", self.folder)
            elif self._free_space(needed_bytes):
                with self._unnamed_file() as file:
                    write_weight_file(
                        file, tensors, extra, lambda done, total: progress("cache packed weights", done, total, "B")
                    )
                    _link_file(file, self.path(key))
        except OSError as error:
            logger.warning("packed weights are not cached in %s: %s", self.folder, error.strerror)

    def path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    @contextlib.contextmanager
    def _unnamed_file(self) -> Iterator[BinaryIO]:
        """Open a new file that has no name yet, unbuffered.

        Without a name, it is deleted if the process is killed; without a buffer, pieces are written whole.
        """
        with open(os.open(self.folder, os.O_TMPFILE | os.O_RDWR, 0o666), "r+b", buffering=0) as file:
            yield cast(BinaryIO, file)

    def _supports_huge_pages(self) -> bool:
        """Whether the system maps files in this folder in huge pages; tested with a small file."""
        try:
            with self._unnamed_file() as file:
                tensors = {"": torch.ones(2 * HUGE_PAGE_BYTES, dtype=torch.uint8)}
                write_weight_file(file, tensors, None, lambda *_: None)
                return map_weight_file(_open_path(file), lambda *_: None).huge_page_share >= _MIN_HUGE_PAGE_SHARE
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EISDIR):  # an old system without unnamed files
                return False
            raise

    def _free_space(self, needed_bytes: int) -> bool:
        """Remove files, the least recently used first, until `needed_bytes` fit into the cache's share of the disk.

        Return whether they fit. Files used in the last hour stay: otherwise models that do not fit together would
        remove each other's files at every start.
        """
        files: list[tuple[float, int, Path]] = []
        for path in self.folder.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):  # another process has removed it
                status = path.stat()
                files.append((status.st_mtime, status.st_size, path))
        used = sum(size for _, size, _ in files)
        allowed = (shutil.disk_usage(self.folder).free + used) // _DISK_FRACTION
        recent = sum(size for used_at, size, _ in files if time.time() - used_at < _RECENT_S)
        if needed_bytes + recent > allowed:
            logger.info(
                "packed weights are not cached: they take %.0f MB, and %s may use %.0f MB, a quarter of its disk's "
                "free space; files with %.0f MB were used in the last hour; free some space, set HEADRACE_CACHE to a "
                "folder on a larger disk, or use --no-weight-cache",
                *(needed_bytes / 1e6, self.folder, allowed / 1e6, recent / 1e6),
            )
            return False
        for _, size, path in sorted(files):
            if used + needed_bytes <= allowed:
                break
            path.unlink(missing_ok=True)  # servers that have mapped it are not affected
            used -= size
        return True


def _open_path(file: BinaryIO) -> Path:
    """Return the path under which Linux shows the open file."""
    return Path(f"/proc/self/fd/{file.fileno()}")


def _link_file(file: BinaryIO, path: Path) -> None:
    """Give an unnamed file the name `path`, replacing an existing file."""
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.unlink(missing_ok=True)
    # With src_dir_fd, which an absolute path does not need, Python calls linkat, which follows the link.
    os.link(_open_path(file), temporary, src_dir_fd=file.fileno(), follow_symlinks=True)
    try:
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
