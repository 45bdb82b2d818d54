"""The table of fine-tuning jobs and of their events: statements that the store's thread runs, within its
transactions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from sqlite3 import Connection
from typing import Any

import msgspec

from engine.command_io.finetuning.events import JobEvent
from server.finetuning.jobs.names import split_checkpoint_name
from server.finetuning.jobs.record import FinetuneRecord
from server.schemas.finetune_answers import ENDED, FinetuneStatus

Edit = Callable[[FinetuneRecord], None]

_decode = msgspec.json.Decoder(FinetuneRecord).decode
_decode_event = msgspec.json.Decoder(JobEvent).decode
_ACTIVE = tuple(each.value for each in FinetuneStatus if each not in ENDED)
_IS_ACTIVE = f"status IN ({', '.join('?' * len(_ACTIVE))})"
_HAS_PAIR = "EXISTS (SELECT 1 FROM json_each(finetune_jobs.metadata) WHERE key = ? AND value = ?)"


@dataclass(frozen=True, slots=True)
class NumberedEvent:
    """number: from 1 on, in the order of a job's events."""

    number: int
    event: JobEvent


def insert(connection: Connection, record: FinetuneRecord, request: tuple[str, str] | None = None) -> None:
    """request: the client's Idempotency-Key, and a digest of what it asked for."""
    key, digest = request or (None, None)
    metadata = None if record.metadata is None else msgspec.json.encode(record.metadata).decode()
    connection.execute(
        "INSERT INTO finetune_jobs (id, owner, status, name, training_file, validation_file, metadata, request_key, "
        "request_digest, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            record.id,
            record.owner,
            record.status.value,
            record.name,
            record.training_file,
            record.validation_file,
            metadata,
            key,
            digest,
            msgspec.json.encode(record),
        ),
    )


def find(connection: Connection, job_id: str, owner: str) -> FinetuneRecord | None:
    row = connection.execute("SELECT body FROM finetune_jobs WHERE id = ? AND owner = ?", (job_id, owner)).fetchone()
    return None if row is None else _decode(row[0])


def get(connection: Connection, job_id: str) -> FinetuneRecord | None:
    """Whoever owns it."""
    row = connection.execute("SELECT body FROM finetune_jobs WHERE id = ?", (job_id,)).fetchone()
    return None if row is None else _decode(row[0])


def asked_before(connection: Connection, owner: str, key: str) -> tuple[FinetuneRecord, str] | None:
    """The job that a request with this Idempotency-Key made, and the digest of what it asked for."""
    row = connection.execute(
        "SELECT body, request_digest FROM finetune_jobs WHERE owner = ? AND request_key = ?", (owner, key)
    ).fetchone()
    return None if row is None else (_decode(row[0]), row[1])


def page(
    connection: Connection,
    owner: str,
    after: str | None,
    limit: int,
    *,
    metadata: Mapping[str, str] | None = None,
    has_no_metadata: bool = False,
) -> tuple[list[FinetuneRecord], bool] | None:
    """So many of the owner's jobs behind the one with the id `after`, the newest first, and whether there are more;
    None if there is no such job.

    metadata: pairs that each of them has.
    """
    where, values = ["owner = ?"], [owner]
    for key, value in (metadata or {}).items():
        where.append(_HAS_PAIR)
        values += [key, value]
    if has_no_metadata:
        where.append("metadata IS NULL")
    place: tuple[Any, ...] = ()
    if after is not None:
        found = connection.execute("SELECT number FROM finetune_jobs WHERE id = ? AND owner = ?", (after, owner))
        row = found.fetchone()
        if row is None:
            return None
        where.append("number < ?")
        place = row
    rows = connection.execute(
        f"SELECT body FROM finetune_jobs WHERE {' AND '.join(where)} ORDER BY number DESC LIMIT ?",
        (*values, *place, limit + 1),
    ).fetchall()
    return [_decode(body) for (body,) in rows[:limit]], len(rows) > limit


def change(connection: Connection, job_id: str, edit: Edit) -> FinetuneRecord | None:
    """The job as `edit`, which changes it in place, leaves it; None if it is not there."""
    record = get(connection, job_id)
    if record is None:
        return None
    edit(record)
    connection.execute(
        "UPDATE finetune_jobs SET status = ?, body = ? WHERE id = ?",
        (record.status.value, msgspec.json.encode(record), job_id),
    )
    return record


def active(connection: Connection) -> list[FinetuneRecord]:
    """Those that have not ended, the oldest first."""
    rows = connection.execute(f"SELECT body FROM finetune_jobs WHERE {_IS_ACTIVE} ORDER BY number", _ACTIVE)
    return [_decode(body) for (body,) in rows]


def num_active(connection: Connection, owner: str) -> int:
    (count,) = connection.execute(
        f"SELECT count(*) FROM finetune_jobs WHERE owner = ? AND {_IS_ACTIVE}", (owner, *_ACTIVE)
    ).fetchone()
    return int(count)


def by_status(connection: Connection) -> dict[str, int]:
    return dict(connection.execute("SELECT status, count(*) FROM finetune_jobs GROUP BY status").fetchall())


def named(connection: Connection, name: str) -> tuple[FinetuneRecord, int | None] | None:
    """The job whose adapter has this name, and the step if it is the name of a checkpoint; None if there is no such
    adapter."""
    model_name, step = split_checkpoint_name(name)
    row = connection.execute("SELECT body FROM finetune_jobs WHERE name = ?", (model_name,)).fetchone()
    if row is None:
        return None
    record = _decode(row[0])
    is_there = record.has_adapter if step is None else any(each.step == step for each in record.checkpoints)
    if not is_there:
        return None
    return record, step


def with_adapters(connection: Connection) -> list[FinetuneRecord]:
    """Those that have succeeded or have a checkpoint, the oldest first."""
    records = (_decode(body) for (body,) in connection.execute("SELECT body FROM finetune_jobs ORDER BY number"))
    return [each for each in records if each.checkpoints or each.has_adapter]


def use_of(connection: Connection, file_id: str) -> str | None:
    """Why a file is not to be deleted: a job that has not ended learns from it."""
    row = connection.execute(
        f"SELECT id, status FROM finetune_jobs WHERE (training_file = ? OR validation_file = ?) AND {_IS_ACTIVE}",
        (file_id, file_id, *_ACTIVE),
    ).fetchone()
    if row is None:
        return None
    return f"the fine-tuning job {row[0]} reads it, and is {row[1]}; cancel the job, or wait for it"


def add_events(connection: Connection, job_id: str, events: Sequence[JobEvent]) -> None:
    """Add them behind those that the job has."""
    (last,) = connection.execute(
        "SELECT coalesce(max(number), 0) FROM finetune_events WHERE job = ?", (job_id,)
    ).fetchone()
    connection.executemany(
        "INSERT INTO finetune_events (job, number, body) VALUES (?, ?, ?)",
        [(job_id, number, msgspec.json.encode(event)) for number, event in enumerate(events, last + 1)],
    )


def events_page(
    connection: Connection, job_id: str, before: int | None, limit: int
) -> tuple[list[NumberedEvent], bool]:
    """So many of a job's events before that number, the newest first, and whether there are more."""
    rows = connection.execute(
        "SELECT number, body FROM finetune_events WHERE job = ? AND number < ? ORDER BY number DESC LIMIT ?",
        (job_id, (1 << 62) if before is None else before, limit + 1),
    ).fetchall()
    return [NumberedEvent(number, _decode_event(body)) for number, body in rows[:limit]], len(rows) > limit
