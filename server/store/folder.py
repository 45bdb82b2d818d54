"""open_folder: --data-dir, made for this user alone and locked against a second server."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from engine.errors import OptionError, StartupError

_DATABASE = "headrace.sqlite3"
_LOCK = "headrace.lock"
_PRIVATE = 0o600


@contextlib.contextmanager
def open_folder(folder: Path) -> Iterator[Path]:
    """The database's path in `folder`, which no other server uses within the context.

    A new folder is only for its owner, and so is the database in an existing one. Raises StartupError or OptionError.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _PRIVATE)
    except OSError as error:
        raise OptionError(
            f"--data-dir {folder} cannot be used: {error.strerror}; give a folder that this user may write to"
        ) from error
    try:
        _lock(lock, folder)
        database = folder / _DATABASE
        os.close(os.open(database, os.O_RDWR | os.O_CREAT, _PRIVATE))  # SQLite gives its other files the same mode
        yield database
    finally:
        os.close(lock)  # which unlocks it; a killed server's lock is gone with it


def _lock(lock: int, folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.pread(lock, 32, 0).decode(errors="replace").strip()
        raise StartupError(
            f"another server uses --data-dir {folder} (process {owner}); stop it, or give another folder"
        ) from error
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
