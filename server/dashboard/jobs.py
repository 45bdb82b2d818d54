"""jobs_report: the batches, fine-tuning jobs and files that a caller may see, for the dashboard."""

from sqlite3 import Connection

from server.batches.record import BATCHES, BatchRecord
from server.context import ServerContext
from server.files import table as files
from server.files.table import File
from server.finetuning.jobs.record import FinetuningRecord
from server.finetuning.jobs.table import FINETUNING_JOBS
from server.keys.ring import KeyRing
from server.schemas.batch_answers import BatchStatus
from server.schemas.dashboard_jobs import FileSummary, JobsReport, JobSummary, JobUnit
from server.schemas.finetuning_answers import FinetuningStatus

_MAX_JOBS = 100  # of each kind; unfinished ones first
_MAX_FILES = 100
_MAX_UNFINISHED = 20  # of each kind
_WAITING = "Waiting: "  # as such an event of server/jobs/stalls.py begins


async def jobs_report(context: ServerContext, owner: str, *, is_everyones: bool) -> JobsReport:
    """Return the newest jobs and files, of `owner` or of all keys. Raises StorageFailed."""
    wanted, now_s, ring = None if is_everyones else owner, context.files.clock(), context.keys.ring

    def work(connection: Connection) -> JobsReport:
        batches = BATCHES.newest(connection, _MAX_JOBS, wanted)
        trainings = FINETUNING_JOBS.newest(connection, _MAX_JOBS, wanted)
        jobs = [
            *(batch_summary(context, each, owner) for each in batches),
            *(training_summary(each, owner, ring, now_s, stall_of(connection, each)) for each in trainings),
        ]
        stored = files.newest(connection, now_s, _MAX_FILES, wanted)
        num_files, num_bytes = files.totals(connection, wanted)
        return JobsReport(
            jobs=sorted(jobs, key=lambda each: (each.has_ended, -each.created_at)),
            files=[_file_summary(each, owner, ring) for each in stored],
            num_files=num_files,
            file_bytes=num_bytes,
            is_everyones=is_everyones,
            has_keys=ring.asks_for_keys,
            now=now_s,
        )

    return await context.files.database.run(work)


async def unfinished_jobs(context: ServerContext, owner: str) -> list[JobSummary]:
    """Return the newest unfinished jobs of all keys, oldest first, for an operator. Raises StorageFailed."""
    now_s, ring = context.files.clock(), context.keys.ring

    def work(connection: Connection) -> list[JobSummary]:
        batches = [each for each in BATCHES.newest(connection, _MAX_UNFINISHED) if not each.status.has_ended]
        trainings = [each for each in FINETUNING_JOBS.newest(connection, _MAX_UNFINISHED) if not each.status.has_ended]
        return [
            *(batch_summary(context, each, owner) for each in batches),
            *(training_summary(each, owner, ring, now_s, stall_of(connection, each)) for each in trainings),
        ]

    return sorted(await context.files.database.run(work), key=lambda each: each.created_at)


def batch_summary(context: ServerContext, record: BatchRecord, owner: str) -> JobSummary:
    done = record.completed + record.failed
    left_s = None
    if record.status is BatchStatus.IN_PROGRESS and done and record.active_s:
        left_s = record.active_s / done * (record.total - done)
    run = context.models.get_or_default(record.model).live.pace.run_of(record.id)
    return JobSummary(
        id=record.id,
        kind="batch",
        model=record.model,
        status=record.status.value,
        has_ended=record.status.has_ended,
        done=done,
        total=record.total,
        failed=record.failed,
        unit=JobUnit.LINE,
        left_s=left_s,
        run_s=None if run is None else run[0],
        paused_s=None if run is None else run[1],
        is_paused=_is_paused(context, record),
        waits_for=None,
        key=context.keys.ring.owner_name(record.owner),
        is_own=record.owner == owner,
        created_at=record.created_at,
        started_at=record.in_progress_at,
        ended_at=record.ended_s,
    )


def _is_paused(context: ServerContext, record: BatchRecord) -> bool:
    """Whether a running batch stands still because its model's engine has requests of clients."""
    if record.status is not BatchStatus.IN_PROGRESS or record.model is None:
        return False
    last = context.models.get_or_default(record.model).live.last_step
    return last.running_batch == 0 and last.running + last.waiting > 0


def stall_of(connection: Connection, record: FinetuningRecord) -> str | None:
    """Return why the job stands still, if its last event says so. Such events have no text of the job's files."""
    if record.status.has_ended:
        return None
    for numbered in FINETUNING_JOBS.events_page(connection, record.id, None, 1)[0]:
        message = numbered.event.message
        return message if message.startswith(_WAITING) and "sample" not in numbered.event.data else None
    return None


def training_summary(
    record: FinetuningRecord, owner: str, ring: KeyRing, now_s: float, waits_for: str | None
) -> JobSummary:
    is_running = record.status is FinetuningStatus.RUNNING
    left_s = max(0.0, record.estimated_finish - now_s) if is_running and record.estimated_finish is not None else None
    return JobSummary(
        id=record.id,
        kind=record.method.value,
        model=record.base_model,
        status=record.status.value,
        has_ended=record.status.has_ended,
        done=record.step,
        total=0 if record.resolved is None else record.resolved.total_steps,
        failed=0,
        unit=JobUnit.STEP,
        left_s=left_s,
        run_s=None,
        paused_s=None,
        is_paused=False,
        waits_for=waits_for,
        key=ring.owner_name(record.owner),
        is_own=record.owner == owner,
        created_at=record.created_at,
        started_at=record.started_at,
        ended_at=record.finished_at,
    )


def _file_summary(file: File, owner: str, ring: KeyRing) -> FileSummary:
    return FileSummary(
        id=file.id,
        purpose=file.purpose,
        bytes=file.bytes,
        filename=file.filename if file.owner == owner else None,
        created_at=file.created_s,
        expires_at=file.expires_s,
        key=ring.owner_name(file.owner),
        is_own=file.owner == owner,
    )
