"""locked: lets one process at a time work in a job's folder."""

import contextlib
import fcntl
from collections.abc import Iterator

from engine.command_io.finetuning.job import JobFolder
from engine.errors import StartupError


@contextlib.contextmanager
def locked(folder: JobFolder) -> Iterator[None]:
    """Lock the folder, which must exist, for this process.

    The kernel releases the lock however the process ends. The empty lock file stays: if it were removed, it could be
    locked twice. Raises StartupError if another process holds the lock, and OSError.
    """
    with folder.lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartupError(
                f"another process is training in {folder.path}; wait until it has ended, or give another --out"
            ) from None
        yield
