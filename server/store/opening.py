"""open_store and open_database: the server's storage, in --data-dir or in memory."""

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from engine.child_processes.fault_plan import FaultPlan
from engine.errors import OptionError, StartupError
from server.config.server import ServerConfig
from server.store.database import MIGRATIONS, Database, memory_database
from server.store.entries import Entries

_DATABASE = "headrace.sqlite3"
_LOCK = "headrace.lock"
_PRIVATE = 0o600


@contextlib.contextmanager
def open_store(config: ServerConfig, faults: FaultPlan | None = None) -> Iterator[Entries]:
    """Return a context with the entries in --data-dir, or in memory without it. faults: storage errors to inject.

    Raises OptionError if --data-dir is unusable, and StartupError if another server uses it or its schema is newer.
    """
    if config.data_dir is None:
        database = memory_database(faults)
        try:
            yield entries_in(database, config)
        finally:
            database.close()
        return
    with open_database(Path(config.data_dir), faults=faults) as database:
        yield entries_in(database, config)


def entries_in(database: Database, config: ServerConfig) -> Entries:
    return Entries(database, max_bytes=config.store_max_bytes, max_age_s=config.store_max_age)


@contextlib.contextmanager
def open_database(
    folder: Path, migrations: Sequence[tuple[str, ...]] = MIGRATIONS, *, faults: FaultPlan | None = None
) -> Iterator[Database]:
    """Return a context with the database in `folder`.

    Raises OptionError if the folder is unusable, and StartupError if another server uses it or its schema is newer.
    """
    with _open_folder(folder) as path:
        database = Database(str(path), migrations, faults)
        try:
            database.open()
            yield database
        except sqlite3.Error as error:
            raise OptionError(
                f"--data-dir {folder} cannot be used: {error}; give another folder, or move {path} away"
            ) from error
        finally:
            database.close()


@contextlib.contextmanager
def _open_folder(folder: Path) -> Iterator[Path]:
    """Lock the folder within the context, and yield the path of its database file.

    A new folder, and a new database, can be read only by this user. Raises OptionError if the folder is unusable, and
    StartupError if another server uses it.
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
