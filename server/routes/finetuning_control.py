"""/v1/fine_tuning/jobs/ID/cancel, /pause and /resume. All are idempotent."""

import time
from sqlite3 import Connection

from fastapi import APIRouter, Request
from starlette.responses import Response

from engine.command_io.finetuning.events import JobEvent
from engine.errors import InvalidRequest
from server.finetuning.jobs.record import FinetuningRecord
from server.finetuning.jobs.table import FINETUNING_JOBS
from server.http.body import Context
from server.routes.finetuning import job_answer, no_job
from server.schemas.finetuning_answers import FinetuningStatus

router = APIRouter(tags=["Fine-tuning"])


@router.post("/v1/fine_tuning/jobs/{job_id}/cancel")
async def cancel_fine_tuning_job(request: Request, context: Context, job_id: str) -> Response:
    """Cancel a fine-tuning job. Its checkpoints stay served."""
    return await _change(request, context, job_id, "cancel", FinetuningStatus.CANCELLED)


@router.post("/v1/fine_tuning/jobs/{job_id}/pause")
async def pause_fine_tuning_job(request: Request, context: Context, job_id: str) -> Response:
    """Pause a fine-tuning job until it is resumed, so that other jobs can run. Saved steps are not lost."""
    return await _change(request, context, job_id, "pause", FinetuningStatus.PAUSED)


@router.post("/v1/fine_tuning/jobs/{job_id}/resume")
async def resume_fine_tuning_job(request: Request, context: Context, job_id: str) -> Response:
    """Put a paused fine-tuning job back into the queue."""
    return await _change(request, context, job_id, "resume", None)


async def _change(
    request: Request, context: Context, job_id: str, verb: str, wanted: FinetuningStatus | None
) -> Response:
    """Change a job's status unless it has ended. wanted: the new status; None to resume the job."""
    owner, now_s = request.state.owner, context.files.clock()

    def work(connection: Connection) -> tuple[FinetuningRecord | None, bool]:
        record = FINETUNING_JOBS.find(connection, job_id, owner)
        if record is None or record.status is wanted:
            return record, False
        if record.status.has_ended:
            raise InvalidRequest(
                f"Cannot {verb} a job with status '{record.status.value}'.",
                param="fine_tuning_job_id",
                code="job_has_ended",
            )
        if wanted is None and record.status is not FinetuningStatus.PAUSED:
            return record, False
        status = wanted or (FinetuningStatus.QUEUED if record.is_prepared else FinetuningStatus.VALIDATING_FILES)
        FINETUNING_JOBS.add_events(connection, job_id, [JobEvent(created_at=time.time(), message=_MESSAGES[verb])])
        return FINETUNING_JOBS.change(connection, job_id, lambda each: each.enter(status, now_s)), True

    record, has_changed = await context.files.database.run(work, is_durable=True)
    if record is None:
        raise no_job(job_id)
    if has_changed:
        context.wake_job(job_id)
    return job_answer(record, {})


_MESSAGES = {
    "cancel": "Fine-tuning job cancelled",
    "pause": "Fine-tuning job paused",
    "resume": "Fine-tuning job waits for its turn to continue",
}
