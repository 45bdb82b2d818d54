"""Removal of cache entries, limited to files within the cache, and detection of processes that use them."""

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from models.caches.entry import CacheEntry, measure_files
from models.system.files import is_locked

_PROC = Path("/proc")


class OutsideCache(Exception):
    """A path of an entry lies outside of its cache. Nothing of the entry was removed."""


def is_being_fetched(entry: CacheEntry) -> bool:
    return any(is_locked(lock) for pattern in entry.locks for lock in pattern.parent.glob(pattern.name))


def processes_using(entry: CacheEntry) -> list[int]:
    """Return the ids of other processes that have files of the entry or its derived entries open or mapped.

    Processes that this user may not inspect in /proc are not found.
    """
    contents = {os.path.realpath(path) for each in (entry, *entry.derived) for path in each.contents}
    found = []
    for process in _PROC.glob("[0-9]*"):
        if int(process.name) != os.getpid() and not contents.isdisjoint(_open_files(process)):
            found.append(int(process.name))
    return sorted(found)


def _open_files(process: Path) -> Iterable[str]:
    with contextlib.suppress(OSError):  # of another user, or gone
        for descriptor in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                yield os.readlink(descriptor)
    with contextlib.suppress(OSError):
        for line in (process / "maps").read_text(errors="surrogateescape").splitlines():
            if len(parts := line.split(maxsplit=5)) == 6:
                yield parts[5]


def remove(entry: CacheEntry) -> int:
    """Remove an entry and its derived entries; return the bytes that this frees.

    Raises OutsideCache, before anything is removed, if a path lies outside of its cache; OSError if a removal fails.
    """
    entries = (entry, *entry.derived)
    for each in entries:
        for path in each.paths:
            _check_inside(path, each.root)
    freed = 0
    for each in entries:
        before, _ = measure_files(each.contents)
        for path in each.paths:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        freed += before - measure_files(each.contents)[0]
    return freed


def _check_inside(path: Path, root: Path) -> None:
    """Raise OutsideCache unless the path itself lies in `root`; the target of a link is not removed."""
    parent = path.parent.resolve()
    if path.name in ("", "..") or not parent.is_relative_to(root.resolve()):
        raise OutsideCache(f"{path} lies outside of the cache {root}")
