"""KeptWeights: images of packed weights in the cache folder, found by a key and kept while there is room."""

import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from models.cache import cache_folder
from models.kept.image import LARGE_PAGE, Image, ImageError, can_be_written, image_bytes, map_image, write_image
from models.loaded import ProgressReport

logger = logging.getLogger(__name__)

_SUFFIX = ".weights"
_ROOM = 4  # images may have this part of the disk's free space, what they have included
_STALE_S = 3600.0  # a partial file that nobody can still be writing
_MIN_LARGE_PAGE_SHARE = 0.75


@dataclass(frozen=True, slots=True)
class KeptWeights:
    """min_bytes: smaller ones are as fast to load. wants_large_pages: else mapped memory is slower than memory of one's
    own by as much as the start would gain in a few thousand tokens, so nothing is kept."""

    folder: Path = field(default_factory=lambda: cache_folder() / "weights")
    min_bytes: int = 16 << 20
    wants_large_pages: bool = True

    def find(self, key: str, progress: ProgressReport) -> Image | None:
        """What was kept under `key`, mapped; None if there is nothing whole, or not in large pages."""
        path = self._path(key)
        try:
            image = map_image(path, lambda done, total: progress("load weights", done, total, "B"))
        except FileNotFoundError:
            return None
        except (OSError, ImageError) as error:
            logger.warning("%s is not used: %s", path, error)
            return None
        if self.wants_large_pages and image.large_page_share < _MIN_LARGE_PAGE_SHARE:
            logger.info(
                "%s is not used: the system maps %.0f%% of it in large pages", path, 100 * image.large_page_share
            )
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # the least recently used goes first
        return image

    def keep(self, key: str, tensors: Mapping[str, torch.Tensor], extra: Any, progress: ProgressReport) -> None:
        """Write an image for the next start. What hinders that costs this one nothing: it is logged."""
        needed = image_bytes(tensors)
        if needed < self.min_bytes or not can_be_written(tensors):
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_stale()
            if self.wants_large_pages and not self._gives_large_pages():
                logger.info(
                    "packed weights are not kept: the system does not map files of %s in large pages", self.folder
                )
            elif not self._make_room(needed):
                logger.info("packed weights are not kept: too little space is left in %s", self.folder)
            else:
                with self._partial() as file:
                    write_image(file, tensors, extra, lambda done, of: progress("keep packed weights", done, of, "B"))
                    os.replace(file.name, self._path(key))
        except OSError as error:
            logger.warning("packed weights are not kept in %s: %s", self.folder, error.strerror)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    @contextlib.contextmanager
    def _partial(self) -> Iterator[Any]:
        """A new file, which is gone afterwards unless it got another name. Without a buffer: pieces are to be whole."""
        with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".partial", buffering=0, delete=False) as file:
            try:
                yield file
            finally:
                Path(file.name).unlink(missing_ok=True)

    def _gives_large_pages(self) -> bool:
        """Tried with a small image."""
        with self._partial() as file:
            write_image(file, {"": torch.ones(2 * LARGE_PAGE, dtype=torch.uint8)}, None, lambda *_: None)
            return map_image(Path(file.name), lambda *_: None).large_page_share >= _MIN_LARGE_PAGE_SHARE

    def _make_room(self, needed: int) -> bool:
        """Remove images, the least recently used first, until `needed` bytes are within their part of the disk."""
        images = sorted((path.stat().st_mtime, path) for path in self.folder.glob(f"*{_SUFFIX}"))
        sizes = {path: path.stat().st_size for _, path in images}
        used = sum(sizes.values())
        allowed = (shutil.disk_usage(self.folder).free + used) // _ROOM
        if needed > allowed:
            return False
        for path, size in sizes.items():
            if used + needed <= allowed:
                break
            path.unlink(missing_ok=True)  # a server that has mapped it goes on
            used -= size
        return True

    def _remove_stale(self) -> None:
        """Partial files of processes that were killed."""
        for path in self.folder.glob("*.partial"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _STALE_S:
                    path.unlink()
