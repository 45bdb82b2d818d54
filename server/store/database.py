"""Database: SQLite on its own thread, so that the event loop never waits for the disk."""

import asyncio
import logging
import math
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from engine.child_processes.fault_plan import FaultPlan
from engine.errors import StartupError
from server.errors import StorageFailed

logger = logging.getLogger(__name__)
T = TypeVar("T")

_MEMORY = ":memory:"
_REPORT_EVERY_S = 60.0

# Statements by schema version: a database of version n has run the first n. Append only; never change a released one.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE entries (
            id TEXT PRIMARY KEY,
            kind TEXT NOT NULL,
            owner TEXT NOT NULL,
            created_s INTEGER NOT NULL,
            used_s REAL NOT NULL,
            state TEXT NOT NULL,
            size INTEGER NOT NULL,
            body BLOB NOT NULL
        ) WITHOUT ROWID""",
        "CREATE INDEX entries_by_use ON entries (used_s)",
        "CREATE INDEX entries_by_state ON entries (kind, state)",
        "CREATE TABLE totals (bytes INTEGER NOT NULL)",
        "INSERT INTO totals VALUES (0)",
        """CREATE TRIGGER count_inserted AFTER INSERT ON entries BEGIN
            UPDATE totals SET bytes = bytes + new.size;
        END""",
        """CREATE TRIGGER count_updated AFTER UPDATE OF size ON entries BEGIN
            UPDATE totals SET bytes = bytes + new.size - old.size;
        END""",
        """CREATE TRIGGER count_deleted AFTER DELETE ON entries BEGIN
            UPDATE totals SET bytes = bytes - old.size;
        END""",
        """CREATE TABLE items (
            entry TEXT NOT NULL REFERENCES entries (id) ON DELETE CASCADE,
            position INTEGER NOT NULL,
            part TEXT NOT NULL,
            id TEXT NOT NULL,
            body BLOB NOT NULL,
            PRIMARY KEY (entry, position)
        ) WITHOUT ROWID""",
        "CREATE INDEX items_by_id ON items (id)",
    ),
    (
        """CREATE TABLE usage (
            key TEXT NOT NULL,
            hour_s INTEGER NOT NULL,
            outcome TEXT NOT NULL,
            requests INTEGER NOT NULL,
            prompt_tokens INTEGER NOT NULL,
            cached_tokens INTEGER NOT NULL,
            output_tokens INTEGER NOT NULL,
            PRIMARY KEY (hour_s, key, outcome)
        ) WITHOUT ROWID""",
    ),
    (
        """CREATE TABLE files (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            owner TEXT NOT NULL,
            purpose TEXT NOT NULL,
            filename TEXT NOT NULL,
            bytes INTEGER NOT NULL,
            created_s INTEGER NOT NULL,
            expires_s INTEGER
        )""",
        "CREATE INDEX files_by_owner ON files (owner, number)",
        "CREATE INDEX files_by_expiry ON files (expires_s)",
        """CREATE TABLE batches (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            owner TEXT NOT NULL,
            status TEXT NOT NULL,
            input_file TEXT NOT NULL,
            ended_s INTEGER,
            body BLOB NOT NULL
        )""",
        "CREATE INDEX batches_by_owner ON batches (owner, number)",
        "CREATE INDEX batches_by_status ON batches (status)",
    ),
    (
        """CREATE TABLE finetune_jobs (
            number INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            owner TEXT NOT NULL,
            status TEXT NOT NULL,
            name TEXT NOT NULL UNIQUE,
            training_file TEXT NOT NULL,
            validation_file TEXT,
            metadata TEXT,
            request_key TEXT,
            request_digest TEXT,
            body BLOB NOT NULL,
            UNIQUE (owner, request_key)
        )""",
        "CREATE INDEX finetune_jobs_by_owner ON finetune_jobs (owner, number)",
        "CREATE INDEX finetune_jobs_by_status ON finetune_jobs (status)",
        """CREATE TABLE finetune_events (
            job TEXT NOT NULL REFERENCES finetune_jobs (id) ON DELETE CASCADE,
            number INTEGER NOT NULL,
            body BLOB NOT NULL,
            PRIMARY KEY (job, number)
        ) WITHOUT ROWID""",
    ),
    (
        """CREATE TABLE uploads (
            id TEXT PRIMARY KEY,
            owner TEXT NOT NULL,
            purpose TEXT NOT NULL,
            filename TEXT NOT NULL,
            bytes INTEGER NOT NULL,
            created_s INTEGER NOT NULL,
            expires_s INTEGER NOT NULL,
            file_expires_after_s INTEGER,
            status TEXT NOT NULL
        ) WITHOUT ROWID""",
        """CREATE TABLE upload_parts (
            id TEXT PRIMARY KEY,
            upload TEXT NOT NULL,
            name TEXT NOT NULL,
            bytes INTEGER NOT NULL
        ) WITHOUT ROWID""",
        "CREATE INDEX upload_parts_by_upload ON upload_parts (upload)",
    ),
    ("ALTER TABLE files ADD COLUMN derived_from TEXT",),
)


def memory_database(faults: FaultPlan | None = None) -> "Database":
    """Return a database in memory. It is opened at the first call of `run`."""
    return Database(_MEMORY, MIGRATIONS, faults)


class Database:
    """One SQLite connection on one thread, which runs calls in order.

    Each call of `run` is one transaction. When it returns, the transaction is in the file and survives a crash of the
    process. After a durable transaction, this and all earlier ones also survive a power failure; later ones may be
    lost. Deleted content is overwritten.
    """

    def __init__(self, path: str, migrations: Sequence[tuple[str, ...]], faults: FaultPlan | None = None) -> None:
        self._path = path
        self._faults = faults
        self._is_reported_failing = False
        self._reported_s = -math.inf  # time.monotonic() of the last report that it fails
        self._is_durable: bool | None = None
        self._migrations = migrations
        self._required: list[str] = []  # statements that the next call runs first
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        """Connect now instead of at the first call, and migrate the schema to the current version.

        Raises sqlite3.Error, and StartupError if the schema is newer than this version's.
        """
        self._thread.submit(self._open).result()

    def require(self, statements: Iterable[str]) -> None:
        """Run CREATE ... IF NOT EXISTS statements before the next call, for tables that no migration creates."""
        self._required += statements

    async def run(self, work: Callable[[sqlite3.Connection], T], *, is_durable: bool = False) -> T:
        """Return the result of `work`, a transaction. Raises StorageFailed, or the errors of `work`, after rolling
        back."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, work, is_durable)

    def _run(self, work: Callable[[sqlite3.Connection], T], is_durable: bool) -> T:
        try:
            connection = self._connection or self._open()
            self._set_durable(connection, is_durable)
            with connection:  # commits, or rolls back
                connection.execute("BEGIN IMMEDIATE")
                required = [*self._required]
                for statement in required:
                    connection.execute(statement)
                if self._faults is not None and self._faults.due("store"):
                    raise sqlite3.OperationalError("database or disk is full")
                result = work(connection)
            del self._required[: len(required)]
            self._note(None)
            return result
        except sqlite3.Error as error:
            self._note(error)
            raise StorageFailed(f"what should be stored or read could not be: {error}") from error

    def _set_durable(self, connection: sqlite3.Connection, is_durable: bool) -> None:
        """Set whether a commit waits until it, and all commits before it, are on the disk."""
        if is_durable is not self._is_durable:
            connection.execute(f"PRAGMA synchronous={'FULL' if is_durable else 'NORMAL'}")
            self._is_durable = is_durable

    def _note(self, error: sqlite3.Error | None) -> None:
        """Log when the database starts to fail and when it works again, at most once a minute: on a full disk small
        writes still succeed, so that errors and successes alternate."""
        now_s = time.monotonic()
        if error is None and self._is_reported_failing:
            logger.warning("the store at %s works again", self._path)
            self._is_reported_failing = False
        elif error is not None and not self._is_reported_failing and now_s >= self._reported_s + _REPORT_EVERY_S:
            logger.warning("the store at %s fails: %s; requests are answered, and not stored", self._path, error)
            self._is_reported_failing, self._reported_s = True, now_s

    async def truncate(self) -> None:
        """Erase deleted content from the write-ahead log."""

        def checkpoint() -> None:
            assert self._connection is not None
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

        await asyncio.get_running_loop().run_in_executor(self._thread, checkpoint)

    def close(self) -> None:
        """Finish pending calls, and close the file."""
        self._thread.submit(self._close)
        self._thread.shutdown(wait=True)

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None)
        self._connection = connection
        for pragma in ("journal_mode=WAL", "foreign_keys=ON", "secure_delete=ON"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("PRAGMA temp_store=MEMORY")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > len(self._migrations):
            raise StartupError(
                f"{self._path} was written by a newer headrace (its schema is {version}, and this one knows "
                f"{len(self._migrations)}); start that one, or give another --data-dir"
            )
        for number, statements in enumerate(self._migrations[version:], version + 1):
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                for statement in statements:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version={number}")
        return connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
