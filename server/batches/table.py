"""The table of batches: statements that the store's thread runs, within its transactions."""

from collections.abc import Callable
from sqlite3 import Connection
from typing import Any

import msgspec

from server.batches.record import BatchRecord
from server.schemas.batch_answers import ENDED, BatchStatus

Edit = Callable[[BatchRecord], None]

_decode = msgspec.json.Decoder(BatchRecord).decode
_ACTIVE = tuple(each.value for each in BatchStatus if each not in ENDED)
_IS_ACTIVE = f"status IN ({', '.join('?' * len(_ACTIVE))})"


def insert(connection: Connection, record: BatchRecord) -> None:
    connection.execute(
        "INSERT INTO batches (id, owner, status, input_file, ended_s, body) VALUES (?, ?, ?, ?, NULL, ?)",
        (record.id, record.owner, record.status.value, record.input_file_id, msgspec.json.encode(record)),
    )


def find(connection: Connection, batch_id: str, owner: str) -> BatchRecord | None:
    row = connection.execute("SELECT body FROM batches WHERE id = ? AND owner = ?", (batch_id, owner)).fetchone()
    return None if row is None else _decode(row[0])


def page(connection: Connection, owner: str, after: str | None, limit: int) -> tuple[list[BatchRecord], bool] | None:
    """So many of the owner's batches behind the one with the id `after`, the newest first, and whether there are more;
    None if there is no such batch."""
    where, values = "owner = ?", [owner]
    place: tuple[Any, ...] = ()
    if after is not None:
        found = connection.execute("SELECT number FROM batches WHERE id = ? AND owner = ?", (after, owner)).fetchone()
        if found is None:
            return None
        where, place = f"{where} AND number < ?", found
    rows = connection.execute(
        f"SELECT body FROM batches WHERE {where} ORDER BY number DESC LIMIT ?", (*values, *place, limit + 1)
    ).fetchall()
    return [_decode(body) for (body,) in rows[:limit]], len(rows) > limit


def change(connection: Connection, batch_id: str, edit: Edit) -> BatchRecord | None:
    """The batch as `edit`, which changes it in place, leaves it; None if it is not there."""
    row = connection.execute("SELECT body FROM batches WHERE id = ?", (batch_id,)).fetchone()
    if row is None:
        return None
    record = _decode(row[0])
    edit(record)
    ended = (record.completed_at, record.failed_at, record.expired_at, record.cancelled_at)
    ended_s = next((each for each in ended if each is not None), None)
    connection.execute(
        "UPDATE batches SET status = ?, ended_s = ?, body = ? WHERE id = ?",
        (record.status.value, ended_s, msgspec.json.encode(record), batch_id),
    )
    return record


def active(connection: Connection) -> list[BatchRecord]:
    """Those that have not ended, the oldest first."""
    rows = connection.execute(f"SELECT body FROM batches WHERE {_IS_ACTIVE} ORDER BY number", _ACTIVE)
    return [_decode(body) for (body,) in rows]


def num_active(connection: Connection, owner: str) -> int:
    (count,) = connection.execute(
        f"SELECT count(*) FROM batches WHERE owner = ? AND {_IS_ACTIVE}", (owner, *_ACTIVE)
    ).fetchone()
    return int(count)


def by_status(connection: Connection) -> dict[str, int]:
    return dict(connection.execute("SELECT status, count(*) FROM batches GROUP BY status").fetchall())


def use_of(connection: Connection, file_id: str) -> str | None:
    """Why a file is not to be deleted: a batch reads it that has not ended."""
    row = connection.execute(
        f"SELECT id, status FROM batches WHERE input_file = ? AND {_IS_ACTIVE}", (file_id, *_ACTIVE)
    ).fetchone()
    return None if row is None else f"the batch {row[0]} reads it, and is {row[1]}; cancel the batch, or wait for it"


def forget(connection: Connection, before_s: float) -> int:
    """Delete the batches that ended before that time; how many."""
    return connection.execute("DELETE FROM batches WHERE ended_s < ?", (before_s,)).rowcount
