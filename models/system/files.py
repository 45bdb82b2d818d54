"""Locks on files that several processes use, and modes of files that are made as temporary files."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def exclusive_lock(path: Path, on_wait: Callable[[], object]) -> Iterator[None]:
    """Hold a lock on the file at `path` for the context's duration, then remove the file.

    on_wait is called if another process holds the lock. No lock is stale: the kernel releases it however the process
    ends. Raises OSError.

    A process that waited gets the lock on a file that the last holder has removed, and the next process, which makes a
    new file, does not see that lock. So a lock counts only if its file is still the file at `path`, and only the holder
    removes it.
    """
    while True:
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(path, file):
                continue
            try:
                yield
            finally:
                if _is_at(path, file):  # otherwise the cache was cleared, and the file belongs to another process
                    path.unlink()
            return


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock at `path`. A file that cannot be opened counts as not locked."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _is_at(path: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def set_default_modes(*paths: Path) -> None:
    """Give files and folders that were made as temporary ones the modes of ordinary new ones. Raises OSError."""
    mask = os.umask(0)  # reading the mask requires setting it
    os.umask(mask)
    for path in paths:
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)
