"""locked: one process at a time works in a job's folder."""

import contextlib
import fcntl
from collections.abc import Iterator

from engine.command_io.finetuning.job import JobFolder
from engine.errors import StartupError


@contextlib.contextmanager
def locked(folder: JobFolder) -> Iterator[None]:
    """Holds the folder, which exists, for this process. The kernel releases it however the process ends; the empty file
    of the lock stays, since one that was removed could be locked twice.

    Raises StartupError if another process holds it, and OSError.
    """
    with folder.lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartupError(
                f"another process is training in {folder.path}; wait until it has ended, or give another --out"
            ) from None
        yield
