"""WeightStore: images of packed weights in the cache folder, found by a key and kept while there is room."""

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
from models.weight_cache.image import LARGE_PAGE, Image, ImageError, can_be_written, image_bytes, map_image, write_image

logger = logging.getLogger(__name__)

_SUFFIX = ".weights"
_SHARE_OF_DISK = 4  # of its free space, what images have taken included, they may have one in so many bytes
_RECENT_S = 3600.0
_MIN_LARGE_PAGE_SHARE = 0.75


@dataclass(frozen=True, slots=True)
class WeightStore:
    """min_bytes: smaller ones are as fast to load. wants_large_pages: nothing is kept or mapped without them, since
    steps would read mapped weights more slowly than memory of the process's own.
    """

    folder: Path = field(default_factory=lambda: cache_folder() / "weights")
    min_bytes: int = 16 << 20
    wants_large_pages: bool = True

    def find(self, key: str, progress: ProgressReport) -> Image | None:
        """What was kept under `key`, mapped; None if there is nothing whole, or not in large pages."""
        path = self.path(key)
        try:
            image = map_image(path, lambda done, total: progress("map weights", done, total, "B"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ImageError) as error:
            logger.warning("%s is not used: %s", path, error)
            return None
        if self.wants_large_pages and image.large_page_share < _MIN_LARGE_PAGE_SHARE:
            share = f"{image.large_page_share:.0%}"
            logger.info("%s is not used: the system maps %s of it in large pages", path, share)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # the least recently used goes first
        return image

    def keep(self, key: str, tensors: Mapping[str, torch.Tensor], extra: Any, progress: ProgressReport) -> None:
        """Write an image for the next start. What hinders that costs this one nothing: it is logged."""
        needed = image_bytes(tensors)
        if needed < self.min_bytes or not can_be_written(tensors) or not hasattr(os, "O_TMPFILE"):
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.wants_large_pages and not self._gives_large_pages():
                logger.info("packed weights are not kept: files of %s are not mapped in large pages", self.folder)
            elif self._makes_room(needed):
                with self._unnamed() as file:
                    write_image(file, tensors, extra, lambda done, of: progress("keep packed weights", done, of, "B"))
                    _give_name(file, self.path(key))
        except OSError as error:
            logger.warning("packed weights are not kept in %s: %s", self.folder, error.strerror)

    def path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    @contextlib.contextmanager
    def _unnamed(self) -> Iterator[BinaryIO]:
        """A new file without a name, so that it goes with a process that is killed; and without a buffer, since pieces
        are to be written whole."""
        with open(os.open(self.folder, os.O_TMPFILE | os.O_RDWR, 0o666), "r+b", buffering=0) as file:
            yield cast(BinaryIO, file)

    def _gives_large_pages(self) -> bool:
        """Tried with a small image."""
        try:
            with self._unnamed() as file:
                write_image(file, {"": torch.ones(2 * LARGE_PAGE, dtype=torch.uint8)}, None, lambda *_: None)
                return map_image(_path_of(file), lambda *_: None).large_page_share >= _MIN_LARGE_PAGE_SHARE
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EISDIR):  # no files without a name, on an old system
                return False
            raise

    def _makes_room(self, needed: int) -> bool:
        """Remove images, the least recently used first, until `needed` bytes are within their part of the disk.

        Those of the last hour stay: models that do not fit in together would else remove each other's at every start.
        """
        images: list[tuple[float, int, Path]] = []
        for path in self.folder.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):  # another start has removed it
                status = path.stat()
                images.append((status.st_mtime, status.st_size, path))
        used = sum(size for _, size, _ in images)
        allowed = (shutil.disk_usage(self.folder).free + used) // _SHARE_OF_DISK
        recent = sum(size for used_at, size, _ in images if time.time() - used_at < _RECENT_S)
        if needed + recent > allowed:
            logger.info(
                "packed weights are not kept: they take %.0f MB, and %s may have %.0f, a quarter of its disk's free "
                "space, of which %.0f were used in the last hour; make room, set HEADRACE_CACHE to a folder of a "
                "larger disk, or say --no-weight-cache",
                *(needed / 1e6, self.folder, allowed / 1e6, recent / 1e6),
            )
            return False
        for _, size, path in sorted(images):
            if used + needed <= allowed:
                break
            path.unlink(missing_ok=True)  # a server that has mapped it goes on
            used -= size
        return True


def _path_of(file: BinaryIO) -> Path:
    """Of any open file, as Linux has it."""
    return Path(f"/proc/self/fd/{file.fileno()}")


def _give_name(file: BinaryIO, path: Path) -> None:
    """In place of what has that name."""
    passing = path.with_suffix(f".{os.getpid()}")
    passing.unlink(missing_ok=True)
    # With a descriptor, which an absolute path has no use for, Python calls linkat, which follows that link.
    os.link(_path_of(file), passing, src_dir_fd=file.fileno(), follow_symlinks=True)
    try:
        os.replace(passing, path)
    finally:
        passing.unlink(missing_ok=True)
