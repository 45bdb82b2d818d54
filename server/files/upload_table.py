"""The tables of uploads and of their parts. Their functions run within transactions of the database."""

import enum
from dataclasses import dataclass, replace
from sqlite3 import Connection


class UploadStatus(enum.StrEnum):
    PENDING = "pending"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


_COLUMNS = "id, owner, purpose, filename, bytes, created_s, expires_s, file_expires_after_s, status"


@dataclass(frozen=True, slots=True)
class PartedUpload:
    """A file that is uploaded in parts. bytes: of the whole file. expires_s: when a pending upload expires."""

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
        """Return the upload as it is at that time: a pending one may have expired."""
        is_over = self.status is UploadStatus.PENDING and now_s >= self.expires_s
        return replace(self, status=UploadStatus.EXPIRED) if is_over else self


@dataclass(frozen=True, slots=True)
class UploadPart:
    """One part of an upload. name: of its bytes on the disk."""

    id: str
    upload_id: str
    name: str
    bytes: int


def insert_upload(connection: Connection, upload: PartedUpload) -> None:
    connection.execute(
        f"INSERT INTO uploads ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(upload.id, upload.owner, upload.purpose, upload.filename, upload.bytes, upload.created_s),
            *(upload.expires_s, upload.file_expires_after_s, upload.status.value),
        ),
    )


def find_upload(connection: Connection, upload_id: str, owner: str) -> PartedUpload | None:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM uploads WHERE id = ? AND owner = ?", (upload_id, owner)
    ).fetchone()
    if row is None:
        return None
    values = dict(zip(_COLUMNS.split(", "), row, strict=True))
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
    """Return the parts of an upload by their ids."""
    rows = connection.execute("SELECT id, upload, name, bytes FROM upload_parts WHERE upload = ?", (upload_id,))
    return {row[0]: UploadPart(*row) for row in rows}


def part_names(connection: Connection) -> set[str]:
    """Return the names on the disk of all parts."""
    return {name for (name,) in connection.execute("SELECT name FROM upload_parts")}


def part_bytes(connection: Connection) -> int:
    """Return the bytes of all parts."""
    (total,) = connection.execute("SELECT coalesce(sum(bytes), 0) FROM upload_parts").fetchone()
    return int(total)


def delete_parts(connection: Connection, upload_id: str) -> list[str]:
    """Delete the parts of an upload; return their names on the disk."""
    names = [part.name for part in parts(connection, upload_id).values()]
    connection.execute("DELETE FROM upload_parts WHERE upload = ?", (upload_id,))
    return names


def expired_uploads(connection: Connection, now_s: float) -> list[str]:
    """Return the ids of uploads of any status whose time is over."""
    return [upload_id for (upload_id,) in connection.execute("SELECT id FROM uploads WHERE expires_s <= ?", (now_s,))]


def delete_upload(connection: Connection, upload_id: str) -> None:
    connection.execute("DELETE FROM uploads WHERE id = ?", (upload_id,))
