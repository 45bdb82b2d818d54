"""FINETUNING_JOBS: the table of fine-tuning jobs, further queries, and the journal of one job."""

import logging
from collections.abc import Mapping, Sequence
from sqlite3 import Connection

import msgspec

from engine.command_io.finetuning.events import JobEvent
from server.finetuning.jobs.record import FinetuningRecord, split_checkpoint_name
from server.jobs.journal import Journal
from server.jobs.table import JobTable
from server.schemas.finetuning_answers import FinetuningError, FinetuningStatus

logger = logging.getLogger(__name__)


def _metadata(record: FinetuningRecord) -> str | None:
    return None if record.metadata is None else msgspec.json.encode(record.metadata).decode()


FINETUNING_JOBS = JobTable(
    "finetune_jobs",
    FinetuningRecord,
    FinetuningStatus,
    noun="fine-tuning job",
    columns={
        "name": lambda record: record.name,
        "training_file": lambda record: record.training_file,
        "validation_file": lambda record: record.validation_file,
        "metadata": _metadata,
    },
    file_columns=("training_file", "validation_file"),
    events="finetune_events",
)

_HAS_PAIR = "EXISTS (SELECT 1 FROM json_each(finetune_jobs.metadata) WHERE key = ? AND value = ?)"


def insert_job(connection: Connection, record: FinetuningRecord, request: tuple[str, str] | None = None) -> None:
    """Insert a job. request: the client's Idempotency-Key and a digest of the request body, if there is a key."""
    key, digest = request or (None, None)
    FINETUNING_JOBS.insert(connection, record, request_key=key, request_digest=digest)


def made_by(connection: Connection, owner: str, key: str) -> tuple[FinetuningRecord, str] | None:
    """Return the job created by a request with this Idempotency-Key, and the digest of that request's body."""
    row = connection.execute(
        "SELECT id, request_digest FROM finetune_jobs WHERE owner = ? AND request_key = ?", (owner, key)
    ).fetchone()
    record = None if row is None else FINETUNING_JOBS.find(connection, row[0])
    return None if record is None else (record, row[1])


def jobs_page(
    connection: Connection,
    owner: str,
    after: str | None,
    limit: int,
    *,
    metadata: Mapping[str, str] | None = None,
    has_no_metadata: bool = False,
) -> tuple[list[FinetuningRecord], bool] | None:
    """Return up to `limit` of the owner's jobs, newest first, and whether there are more.

    after: id of the last job of the page before; returns None if the owner has no such job. metadata: key-value pairs
    that the jobs must have.
    """
    pairs = [*(metadata or {}).items()]
    where = " AND ".join([*(_HAS_PAIR for _ in pairs), *(["metadata IS NULL"] if has_no_metadata else [])]) or "TRUE"
    values = [part for pair in pairs for part in pair]
    return FINETUNING_JOBS.page(connection, owner, after, limit, where, *values)


def named(connection: Connection, name: str) -> tuple[FinetuningRecord, int | None] | None:
    """Find the job of the adapter `name`, and the step if the name is a checkpoint's; None if there is no such
    adapter."""
    model_name, step = split_checkpoint_name(name)
    for record in FINETUNING_JOBS.select(connection, "name = ?", model_name):
        if record.has_adapter if step is None else any(each.step == step for each in record.checkpoints):
            return record, step
    return None


def with_adapters(connection: Connection) -> list[FinetuningRecord]:
    """Return the jobs that have an adapter or a checkpoint, oldest first."""
    return [each for each in FINETUNING_JOBS.select(connection) if each.checkpoints or each.has_adapter]


class FinetuningJournal(Journal[FinetuningRecord]):
    """The stored record and events of one fine-tuning job. `fail` ends the job with an error."""

    async def fail(self, status: FinetuningStatus, error: FinetuningError, events: Sequence[JobEvent] = ()) -> None:
        """Set the job to FAILED, unless its status is no longer `status`."""

        def edit(record: FinetuningRecord) -> None:
            record.error = error
            record.enter(FinetuningStatus.FAILED, self.now_s)

        last = self.event(f"The job failed: {error.message}", level="error")
        if await self.change(edit, [*events, last], status=status):
            logger.warning("fine-tuning job %s failed: %s", self.record.id, error.message)
