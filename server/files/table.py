"""The tables of files and of uploads: everything but their contents. The functions run within transactions."""

import enum
from collections.abc import Collection
from dataclasses import astuple, dataclass, replace
from sqlite3 import Connection
from typing import Any

_COLUMNS = "id, owner, purpose, filename, bytes, created_s, expires_s, derived_from"


@dataclass(frozen=True, slots=True)
class File:
    """One file. Times are in seconds since 1970. expires_s: None if it never expires. derived_from: id of the file that
    it was made of."""

    id: str
    owner: str
    purpose: str
    filename: str
    bytes: int
    created_s: int
    expires_s: int | None
    derived_from: str | None = None


@dataclass(frozen=True, slots=True)
class FilePage:
    files: list[File]
    has_more: bool


def insert(connection: Connection, file: File) -> None:
    connection.execute(
        f"INSERT INTO files ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        astuple(file),
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
    """Return up to `limit` of the owner's files after the file with the id `after`; None if there is no such file."""
    where = "owner = ? AND (expires_s IS NULL OR expires_s > ?)"
    values: list[Any] = [owner, now_s]
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


def newest(connection: Connection, now_s: float, limit: int, owner: str | None = None) -> list[File]:
    """Return up to `limit` files that have not expired, newest first. owner: None for all."""
    where, values = _of(owner)
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM files WHERE {where} AND (expires_s IS NULL OR expires_s > ?) "
        "ORDER BY number DESC LIMIT ?",
        (*values, now_s, limit),
    )
    return [File(*row) for row in rows]


def totals(connection: Connection, owner: str | None = None) -> tuple[int, int]:
    """Return the number of files and their total size in bytes. owner: None for all."""
    where, values = _of(owner)
    query = f"SELECT count(*), coalesce(sum(bytes), 0) FROM files WHERE {where}"
    num_files, num_bytes = connection.execute(query, values).fetchone()
    return num_files, num_bytes


def _of(owner: str | None) -> tuple[str, tuple[str, ...]]:
    """Return an SQL condition for files of this owner, or of all, and its parameters."""
    return ("TRUE", ()) if owner is None else ("owner = ?", (owner,))


def unknown(connection: Connection, names: Collection[str]) -> list[str]:
    """Return the names that are not ids of stored files."""
    known = {file_id for (file_id,) in connection.execute("SELECT id FROM files")}
    return [name for name in names if name not in known]


# --- uploads --------------------------------------------------------------------------------------------------------


class UploadStatus(enum.StrEnum):
    PENDING = "pending"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


_UPLOAD_COLUMNS = "id, owner, purpose, filename, bytes, created_s, expires_s, file_expires_after_s, status"


@dataclass(frozen=True, slots=True)
class PartedUpload:
    """A file that is uploaded in parts. bytes: size of the whole file. expires_s: when a pending upload expires."""

    id: str
    owner: str
    purpose: str
    filename: str
    bytes: int
    created_s: int
    expires_s: int
    file_expires_after_s: int | None
    status: UploadStatus = UploadStatus.PENDING

    def at(self, now_s: float) -> "PartedUpload":
        """Return the upload with its status at `now_s`: a pending one may have expired."""
        is_over = self.status is UploadStatus.PENDING and now_s >= self.expires_s
        return replace(self, status=UploadStatus.EXPIRED) if is_over else self


@dataclass(frozen=True, slots=True)
class UploadPart:
    """One part of an upload. name: the name on the disk of the file with its contents."""

    id: str
    upload_id: str
    name: str
    bytes: int


def insert_upload(connection: Connection, upload: PartedUpload) -> None:
    connection.execute(
        f"INSERT INTO uploads ({_UPLOAD_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        astuple(upload),
    )


def find_upload(connection: Connection, upload_id: str, owner: str) -> PartedUpload | None:
    row = connection.execute(
        f"SELECT {_UPLOAD_COLUMNS} FROM uploads WHERE id = ? AND owner = ?", (upload_id, owner)
    ).fetchone()
    if row is None:
        return None
    values = dict(zip(_UPLOAD_COLUMNS.split(", "), row, strict=True))
    return PartedUpload(**{**values, "status": UploadStatus(values["status"])})


def set_status(connection: Connection, upload_id: str, status: UploadStatus) -> None:
    connection.execute("UPDATE uploads SET status = ? WHERE id = ?", (status.value, upload_id))


def num_pending(connection: Connection, owner: str) -> int:
    (count,) = connection.execute(
        "SELECT count(*) FROM uploads WHERE owner = ? AND status = ?", (owner, UploadStatus.PENDING.value)
    ).fetchone()
    return int(count)


def add_part(connection: Connection, part: UploadPart) -> None:
    connection.execute(
        "INSERT INTO upload_parts (id, upload, name, bytes) VALUES (?, ?, ?, ?)",
        (part.id, part.upload_id, part.name, part.bytes),
    )


def parts(connection: Connection, upload_id: str) -> dict[str, UploadPart]:
    """Return the parts of an upload by part id."""
    rows = connection.execute("SELECT id, upload, name, bytes FROM upload_parts WHERE upload = ?", (upload_id,))
    return {row[0]: UploadPart(*row) for row in rows}


def part_names(connection: Connection) -> set[str]:
    """Return the names on the disk of all parts."""
    return {name for (name,) in connection.execute("SELECT name FROM upload_parts")}


def part_bytes(connection: Connection) -> int:
    """Return the total size of all parts in bytes."""
    (total,) = connection.execute("SELECT coalesce(sum(bytes), 0) FROM upload_parts").fetchone()
    return int(total)


def delete_parts(connection: Connection, upload_id: str) -> list[str]:
    """Delete the parts of an upload; return their names on the disk."""
    names = [part.name for part in parts(connection, upload_id).values()]
    connection.execute("DELETE FROM upload_parts WHERE upload = ?", (upload_id,))
    return names


def expired_uploads(connection: Connection, now_s: float) -> list[str]:
    """Return the ids of all uploads past their expiry time, whatever their status."""
    return [upload_id for (upload_id,) in connection.execute("SELECT id FROM uploads WHERE expires_s <= ?", (now_s,))]


def delete_upload(connection: Connection, upload_id: str) -> None:
    connection.execute("DELETE FROM uploads WHERE id = ?", (upload_id,))
