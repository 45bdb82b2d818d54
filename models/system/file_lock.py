"""locked: one process at a time, by a lock on a file that goes with it."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def locked(path: Path, on_wait: Callable[[], object]) -> Iterator[None]:
    """Holds a lock on the file, then removes it; the kernel releases a lock however the process ends, so none is stale.

    on_wait is called if another process holds it. Raises OSError.

    A process that waits for the lock gets it on a file that its holder has removed, and the next process, which makes a
    new file, does not see that lock. So a lock counts only if its file is still the one at `path`, and only its holder
    removes the file.
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
                if _is_at(path, file):  # otherwise the cache was cleared, and the file is another process's
                    path.unlink()
            return


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock at `path`. Raises no errors: what cannot be looked at is not locked."""
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
