"""The table of files: everything but their bytes. Its functions run within transactions of the database."""

from collections.abc import Collection
from dataclasses import dataclass
from sqlite3 import Connection
from typing import Any

_COLUMNS = "id, owner, purpose, filename, bytes, created_s, expires_s"


@dataclass(frozen=True, slots=True)
class File:
    """One file. Times are in seconds since 1970. expires_s: None for never."""

    id: str
    owner: str
    purpose: str
    filename: str
    bytes: int
    created_s: int
    expires_s: int | None


@dataclass(frozen=True, slots=True)
class FilePage:
    files: list[File]
    has_more: bool


def insert(connection: Connection, file: File) -> None:
    connection.execute(
        f"INSERT INTO files ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (file.id, file.owner, file.purpose, file.filename, file.bytes, file.created_s, file.expires_s),
    )


def find(connection: Connection, file_id: str, owner: str, now_s: float) -> File | None:
    """Return the owner's file, unless it has expired."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM files WHERE id = ? AND owner = ? AND (expires_s IS NULL OR expires_s > ?)",
        (file_id, owner, now_s),
    ).fetchone()
    return None if row is None else File(*row)


def files_page(
    connection: Connection,
    owner: str,
    now_s: float,
    *,
    purpose: str | None,
    after: str | None,
    limit: int,
    is_ascending: bool,
) -> FilePage | None:
    """Return up to `limit` of the owner's files behind the one with the id `after`; None if there is no such file."""
    where, given = "owner = ? AND (expires_s IS NULL OR expires_s > ?)", [owner, now_s]
    values: list[Any] = [*given]
    if purpose is not None:
        where, values = f"{where} AND purpose = ?", [*values, purpose]
    if after is not None:
        place = connection.execute("SELECT number FROM files WHERE id = ? AND owner = ?", (after, owner)).fetchone()
        if place is None:
            return None
        where, values = f"{where} AND number {'>' if is_ascending else '<'} ?", [*values, place[0]]
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM files WHERE {where} ORDER BY number {'ASC' if is_ascending else 'DESC'} LIMIT ?",
        (*values, limit + 1),
    ).fetchall()
    return FilePage([File(*row) for row in rows[:limit]], has_more=len(rows) > limit)


def delete(connection: Connection, file_id: str) -> None:
    connection.execute("DELETE FROM files WHERE id = ?", (file_id,))


def expired(connection: Connection, now_s: float) -> list[str]:
    rows = connection.execute("SELECT id FROM files WHERE expires_s <= ?", (now_s,))
    return [file_id for (file_id,) in rows]


def totals(connection: Connection) -> tuple[int, int]:
    """Return the number of files, and of their bytes."""
    num_files, num_bytes = connection.execute("SELECT count(*), coalesce(sum(bytes), 0) FROM files").fetchone()
    return num_files, num_bytes


def unknown(connection: Connection, names: Collection[str]) -> list[str]:
    """Return the names that are not the id of a file."""
    known = {file_id for (file_id,) in connection.execute("SELECT id FROM files")}
    return [name for name in names if name not in known]
