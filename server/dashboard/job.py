"""job_report: one batch or fine-tuning job, for its page on the dashboard; contents only for the job's owner."""

import msgspec

from engine.command_io.finetuning.events import JobEvent
from server.batches.answers import OutputLine
from server.batches.record import BATCHES, BatchRecord
from server.context import ServerContext
from server.dashboard.jobs import batch_summary, stall_of, training_summary
from server.errors import NotStored
from server.files.disk import Disk
from server.finetuning.jobs.record import FinetuningRecord
from server.finetuning.jobs.table import FINETUNING_JOBS
from server.jobs.table import NumberedEvent
from server.schemas.dashboard_jobs import (
    BatchDetails,
    CurvePoint,
    JobCheckpoint,
    JobNote,
    JobReport,
    JobSample,
    LineFailure,
    TrainingDetails,
)

_MAX_EVENTS = 5000  # in one answer; the page asks again
_MAX_FAULTS = 20  # of an input file
_MAX_FAILURES = 20  # lines of an error file
_ERROR_BYTES = 256 << 10  # of an error file, which may be large


async def job_report(context: ServerContext, job_id: str, owner: str, *, sees_all: bool, after: int) -> JobReport:
    """Return a job, and its events after number `after`. sees_all: also jobs of other owners, without contents.

    Raises NotStored, also for jobs that the caller may not see, and StorageFailed.
    """
    wanted, run = None if sees_all else owner, context.files.database.run
    if (batch := await run(lambda connection: BATCHES.find(connection, job_id, wanted))) is not None:
        return await _batch_report(context, batch, owner)
    training = await run(lambda connection: FINETUNING_JOBS.find(connection, job_id, wanted))
    if training is None:
        raise NotStored(f"no job {job_id[:80]!r} is stored, or it belongs to another key", param="job_id")
    events = await run(lambda connection: FINETUNING_JOBS.events_after(connection, job_id, after, _MAX_EVENTS))
    waits_for = await run(lambda connection: stall_of(connection, training))
    return _training_report(context, training, owner, events, after, waits_for)


# --- batches ----------------------------------------------------------------------------------------------------------


async def _batch_report(context: ServerContext, record: BatchRecord, owner: str) -> JobReport:
    files, ring = context.files, context.keys.ring
    is_own = record.owner == owner
    failures = await files.on_disk(_failures, files.disk, record) if is_own and record.failed else []
    details = BatchDetails(
        endpoint=record.endpoint,
        expires_at=record.expires_at,
        input_tokens=record.usage.input_tokens,
        cached_tokens=record.usage.cached_tokens,
        output_tokens=record.usage.output_tokens,
        num_input_faults=len(record.errors),
        input_faults=record.errors[:_MAX_FAULTS] if is_own else [],
        failures=failures,
        output_file_id=record.output_file_id if is_own else None,
        error_file_id=record.error_file_id if is_own else None,
    )
    now_s = files.clock()
    return JobReport(job=batch_summary(context, record, owner), has_keys=ring.asks_for_keys, now=now_s, batch=details)


def _failures(disk: Disk, record: BatchRecord) -> list[LineFailure]:
    """Read the first errors of a batch's error file, which may still be written. Blocks; raises OSError."""
    name = record.error_file_id or record.error_name
    if name is None:
        return []
    size = _ERROR_BYTES if record.error_file_id is not None else min(_ERROR_BYTES, record.error_bytes)
    try:
        data = disk.read(name, 0, size)
    except FileNotFoundError:  # its owner deleted it, or it has expired
        return []
    lines = data[: data.rfind(b"\n") + 1].splitlines()[:_MAX_FAILURES]
    return [_failure(_decode_line(line)) for line in lines]


_decode_line = msgspec.json.Decoder(OutputLine).decode


def _failure(line: OutputLine) -> LineFailure:
    if line.response is None:
        code, message = ("", "") if line.error is None else (line.error.code, line.error.message)
        return LineFailure(line.custom_id, None, code, message)
    error = msgspec.json.decode(line.response.body, type=_ErrorBody).error
    return LineFailure(line.custom_id, line.response.status_code, str(error.code or error.type or ""), error.message)


class _LineError(msgspec.Struct, frozen=True):
    message: str = ""
    code: str | int | None = None
    type: str | None = None


class _ErrorBody(msgspec.Struct, frozen=True):
    """The body of an error answer of any endpoint."""

    error: _LineError = _LineError()


# --- fine-tuning jobs -------------------------------------------------------------------------------------------------


def _training_report(
    context: ServerContext,
    record: FinetuningRecord,
    owner: str,
    events: list[NumberedEvent],
    after: int,
    waits_for: str | None,
) -> JobReport:
    now_s, ring = context.files.clock(), context.keys.ring
    is_own = record.owner == owner
    shown = [each.event for each in events]
    return JobReport(
        job=training_summary(record, owner, ring, now_s, waits_for),
        has_keys=ring.asks_for_keys,
        now=now_s,
        training=_details(record, is_own=is_own),
        curve=[_point(each) for each in shown if each.kind == "metrics"],
        notes=[_note(each) for each in shown if each.kind != "metrics" and "sample" not in each.data] if is_own else [],
        samples=[_sample(each) for each in shown if "sample" in each.data] if is_own else [],
        next_event=events[-1].number if events else after,
        has_more=len(events) == _MAX_EVENTS,
    )


def _details(record: FinetuningRecord, *, is_own: bool) -> TrainingDetails:
    resolved, error = record.resolved, record.error
    return TrainingDetails(
        n_epochs=None if resolved is None else resolved.n_epochs,
        batch_size=None if resolved is None else resolved.batch_size,
        learning_rate=None if resolved is None else resolved.learning_rate,
        lora_rank=None if resolved is None else resolved.lora_rank,
        trained_tokens=record.trained_tokens,
        adapter=record.name if is_own and record.has_adapter else None,
        checkpoints=[JobCheckpoint(record.checkpoint_name(each.step), each.step) for each in record.checkpoints]
        if is_own
        else [],
        error_code=None if error is None else error.code,
        error=error.message if is_own and error is not None else None,
        result_files=record.result_files if is_own else [],
    )


def _point(event: JobEvent) -> CurvePoint:
    data = event.data
    return CurvePoint(
        step=data.get("step", 0),
        train_loss=data.get("train_loss"),
        valid_loss=data.get("full_valid_loss"),
        train_reward=data.get("train_mean_reward"),
        valid_reward=data.get("full_valid_mean_reward"),
    )


def _note(event: JobEvent) -> JobNote:
    return JobNote(event.created_at, event.level, event.message)


def _sample(event: JobEvent) -> JobSample:
    data = event.data
    return JobSample(data.get("epoch", 0), data["sample"], data.get("text", ""), data.get("question") or None)
