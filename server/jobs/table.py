"""JobTable: the jobs of one kind in an SQL table, with their events.

Its methods run within a transaction, in the thread of the database: `database.run(TABLE.active)`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from sqlite3 import Connection
from typing import Generic, Protocol, TypeVar

import msgspec

from engine.command_io.finetuning.events import JobEvent
from server.files.store import Files

Column = str | int | float | None

_LAST = 1 << 62  # behind every event


class JobStatus(Protocol):
    """Status of a job: a member of a string enum."""

    @property
    def value(self) -> str: ...

    @property
    def has_ended(self) -> bool: ...


class JobRecord(Protocol):
    """Stored record of a job: a msgspec.Struct that is edited in place."""

    @property
    def id(self) -> str: ...

    owner: str

    @property
    def status(self) -> JobStatus: ...


Record = TypeVar("Record", bound=JobRecord)


@dataclass(frozen=True, slots=True)
class NumberedEvent:
    """One event of a job. number: counted from 1 in each job."""

    number: int
    event: JobEvent


class JobTable(Generic[Record]):
    """An SQL table with a row per job: number, id, owner, status, the record as JSON, and columns for queries."""

    def __init__(
        self,
        name: str,
        record: type[Record],
        statuses: Iterable[JobStatus],
        *,
        noun: str,
        columns: Mapping[str, Callable[[Record], Column]] | None = None,
        file_columns: Sequence[str] = (),
        events: str | None = None,
    ) -> None:
        """name, events: names of the SQL tables. noun: word for a job in messages. columns: further columns by name,
        each computed from the record. file_columns: columns with ids of files that the job reads until it has ended."""
        self.name = name
        self.noun = noun
        self.statuses = tuple(statuses)
        self._columns = dict(columns or {})
        self._file_columns = tuple(file_columns)
        self._events = events
        self._decode = msgspec.json.Decoder(record).decode
        self._active = tuple(each.value for each in self.statuses if not each.has_ended)
        self._is_active = f"status IN ({', '.join('?' * len(self._active))})"

    @property
    def schema(self) -> list[str]:
        """SQL statements that create the table, its indexes and the table of events, if they do not exist."""
        more = "".join(f"{name}, " for name in self._columns)
        statements = [
            f"CREATE TABLE IF NOT EXISTS {self.name} (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL "
            f"UNIQUE, owner TEXT NOT NULL, status TEXT NOT NULL, {more}body BLOB NOT NULL)",
            f"CREATE INDEX IF NOT EXISTS {self.name}_by_owner ON {self.name} (owner, number)",
            f"CREATE INDEX IF NOT EXISTS {self.name}_by_status ON {self.name} (status)",
        ]
        if self._events is not None:
            statements.append(
                f"CREATE TABLE IF NOT EXISTS {self._events} (job TEXT NOT NULL REFERENCES {self.name} (id) ON DELETE "
                "CASCADE, number INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (job, number)) WITHOUT ROWID"
            )
        return statements

    def attach(self, files: Files) -> None:
        """Create the table if it is missing, and protect the files that its jobs read from deletion."""
        files.database.require(self.schema)
        files.users.append(self.use_of)

    # --- one job ------------------------------------------------------------------------------------------------------

    def insert(self, connection: Connection, record: Record, **more: Column) -> None:
        """Insert a job. more: values of columns that are not computed from the record."""
        values = {"id": record.id, "owner": record.owner, **self._values(record), **more}
        marks = ", ".join("?" * len(values))
        connection.execute(f"INSERT INTO {self.name} ({', '.join(values)}) VALUES ({marks})", (*values.values(),))

    def find(self, connection: Connection, job_id: str, owner: str | None = None) -> Record | None:
        """Return the job; None if there is no such job of the owner. owner: None for any owner."""
        found = self.select(connection, "id = ? AND (? IS NULL OR owner = ?)", job_id, owner, owner)
        return found[0] if found else None

    def change(self, connection: Connection, job_id: str, edit: Callable[[Record], None]) -> Record | None:
        """Apply `edit` to the stored record of a job. Return the changed record; None if there is no such job."""
        record = self.find(connection, job_id)
        if record is None:
            return None
        edit(record)
        values = self._values(record)
        assigned = ", ".join(f"{name} = ?" for name in values)
        connection.execute(f"UPDATE {self.name} SET {assigned} WHERE id = ?", (*values.values(), job_id))
        return record

    def reassign(self, connection: Connection, owner: str, new_owner: str) -> int:
        """Give all jobs of an owner to another one, and return their number. The idempotency keys of the requests that
        made them are forgotten, since the new owner may have used the same."""
        names = {name for _, name, *_ in connection.execute(f"PRAGMA table_info({self.name})")}
        if "request_key" in names:
            connection.execute(f"UPDATE {self.name} SET request_key = NULL WHERE owner = ?", (owner,))
        records = self.select(connection, "owner = ?", owner)
        for record in records:
            record.owner = new_owner
            values = {"owner": new_owner, **self._values(record)}
            assigned = ", ".join(f"{name} = ?" for name in values)
            connection.execute(f"UPDATE {self.name} SET {assigned} WHERE id = ?", (*values.values(), record.id))
        return len(records)

    def _values(self, record: Record) -> dict[str, Column | bytes]:
        columns = {name: column(record) for name, column in self._columns.items()}
        return {"status": record.status.value, **columns, "body": msgspec.json.encode(record)}

    # --- several ------------------------------------------------------------------------------------------------------

    def select(self, connection: Connection, where: str = "TRUE", *values: Column) -> list[Record]:
        """Return the jobs for which an SQL condition holds, oldest first. values: its parameters."""
        rows = connection.execute(f"SELECT body FROM {self.name} WHERE {where} ORDER BY number", values)
        return [self._decode(body) for (body,) in rows]

    def page(
        self, connection: Connection, owner: str, after: str | None, limit: int, where: str = "TRUE", *values: Column
    ) -> tuple[list[Record], bool] | None:
        """Return up to `limit` of the owner's jobs, newest first, and whether there are more. after: id of the last job
        of the page before; returns None if the owner has no such job.

        where, values: an SQL condition on the jobs, and its parameters.
        """
        place: Column = _LAST
        if after is not None:
            found = connection.execute(
                f"SELECT number FROM {self.name} WHERE id = ? AND owner = ?", (after, owner)
            ).fetchone()
            if found is None:
                return None
            (place,) = found
        rows = connection.execute(
            f"SELECT body FROM {self.name} WHERE owner = ? AND number < ? AND {where} ORDER BY number DESC LIMIT ?",
            (owner, place, *values, limit + 1),
        ).fetchall()
        return [self._decode(body) for (body,) in rows[:limit]], len(rows) > limit

    def newest(self, connection: Connection, limit: int, owner: str | None = None) -> list[Record]:
        """Return up to `limit` jobs, those that have not ended first, each group newest first. owner: None for all."""
        where, values = ("TRUE", ()) if owner is None else ("owner = ?", (owner,))
        rows = connection.execute(
            f"SELECT body FROM {self.name} WHERE {where} ORDER BY {self._is_active} DESC, number DESC LIMIT ?",
            (*values, *self._active, limit),
        )
        return [self._decode(body) for (body,) in rows]

    def active(self, connection: Connection) -> list[Record]:
        """Return the jobs that have not ended, oldest first."""
        return self.select(connection, self._is_active, *self._active)

    def num_active(self, connection: Connection, owner: str) -> int:
        (count,) = connection.execute(
            f"SELECT count(*) FROM {self.name} WHERE owner = ? AND {self._is_active}", (owner, *self._active)
        ).fetchone()
        return int(count)

    def by_status(self, connection: Connection) -> dict[str, int]:
        """Return the number of jobs of each status, zeros included."""
        found = dict(connection.execute(f"SELECT status, count(*) FROM {self.name} GROUP BY status").fetchall())
        return {each.value: found.get(each.value, 0) for each in self.statuses}

    def use_of(self, connection: Connection, file_id: str) -> str | None:
        """Return why the file must not be deleted: an active job reads it. None if no active job does."""
        is_read = " OR ".join(f"{name} = ?" for name in self._file_columns) or "FALSE"
        row = connection.execute(
            f"SELECT id, status FROM {self.name} WHERE ({is_read}) AND {self._is_active}",
            (*(file_id for _ in self._file_columns), *self._active),
        ).fetchone()
        if row is None:
            return None
        return f"the {self.noun} {row[0]} reads it, and is {row[1]}; cancel the {self.noun}, or wait until it has ended"

    def delete_ended(self, connection: Connection, before_s: float) -> int:
        """Delete the jobs whose column `ended_s` is below `before_s`; return their number."""
        return connection.execute(f"DELETE FROM {self.name} WHERE ended_s < ?", (before_s,)).rowcount

    # --- events -------------------------------------------------------------------------------------------------------

    def add_events(self, connection: Connection, job_id: str, events: Sequence[JobEvent]) -> None:
        """Append events to the job's events."""
        if not events:
            return
        (last,) = connection.execute(
            f"SELECT coalesce(max(number), 0) FROM {self._events} WHERE job = ?", (job_id,)
        ).fetchone()
        connection.executemany(
            f"INSERT INTO {self._events} (job, number, body) VALUES (?, ?, ?)",
            [(job_id, number, msgspec.json.encode(event)) for number, event in enumerate(events, last + 1)],
        )

    def events_page(
        self, connection: Connection, job_id: str, before: int | None, limit: int
    ) -> tuple[list[NumberedEvent], bool]:
        """Return up to `limit` of a job's events before number `before`, newest first, and whether there are more."""
        rows = connection.execute(
            f"SELECT number, body FROM {self._events} WHERE job = ? AND number < ? ORDER BY number DESC LIMIT ?",
            (job_id, _LAST if before is None else before, limit + 1),
        ).fetchall()
        return [NumberedEvent(number, _decode_event(body)) for number, body in rows[:limit]], len(rows) > limit

    def events_after(self, connection: Connection, job_id: str, after: int, limit: int) -> list[NumberedEvent]:
        """Return up to `limit` of a job's events with a number above `after`, oldest first."""
        rows = connection.execute(
            f"SELECT number, body FROM {self._events} WHERE job = ? AND number > ? ORDER BY number LIMIT ?",
            (job_id, after, limit),
        )
        return [NumberedEvent(number, _decode_event(body)) for number, body in rows]


_decode_event = msgspec.json.Decoder(JobEvent).decode
