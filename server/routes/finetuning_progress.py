"""/v1/fine_tuning/jobs/ID/events and /checkpoints; errors for OpenAI's fine-tuning endpoints that are not supported."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from engine.errors import InvalidRequest
from server.finetuning.jobs.objects import checkpoint_object, event_object
from server.finetuning.jobs.record import event_number
from server.finetuning.jobs.table import FINETUNING_JOBS
from server.http.body import Context, json_response
from server.http.error_forms import add_refusals
from server.http.query import ignored_query, page_query
from server.routes.finetuning import find_job
from server.schemas.base import quote
from server.schemas.finetuning import FinetuningPageQuery
from server.schemas.finetuning_answers import FinetuningCheckpointList, FinetuningEventList

router = APIRouter(tags=["Fine-tuning"])

_PERMISSIONS = "/v1/fine_tuning/checkpoints/{name:path}/permissions"
_NOT_SERVED = {
    ("GET", _PERMISSIONS): "checkpoints have no permissions: every key that may use their name can use them",
    ("POST", _PERMISSIONS): "checkpoints have no permissions: list their names under `models` in the keys file",
    ("DELETE", f"{_PERMISSIONS}/{{permission_id}}"): "checkpoints have no permissions: change the keys file",
}
add_refusals(router, _NOT_SERVED)


@router.get("/v1/fine_tuning/jobs/{job_id}/events")
async def list_fine_tuning_events(request: Request, context: Context, job_id: str) -> Response:
    """List the events of a fine-tuning job, including the metrics of each step, newest first."""
    query = page_query(request, FinetuningPageQuery)
    record = await find_job(request, context, job_id)
    before = None
    if query.after is not None:
        before = event_number(record.id, query.after)
        if before is None:
            raise InvalidRequest(f"after is {quote(query.after)}; there is no such event", param="after")
    found, has_more = await context.files.database.run(
        lambda connection: FINETUNING_JOBS.events_page(connection, record.id, before, query.limit)
    )
    shown = FinetuningEventList.of([event_object(record.id, each) for each in found], has_more=has_more)
    return json_response(shown, ignored_query(request, "after", "limit"))


@router.get("/v1/fine_tuning/jobs/{job_id}/checkpoints")
async def list_fine_tuning_checkpoints(request: Request, context: Context, job_id: str) -> Response:
    """List the adapters that a fine-tuning job saved at the ends of its epochs, newest first."""
    query = page_query(request, FinetuningPageQuery)
    record = await find_job(request, context, job_id)
    every = [checkpoint_object(record, each) for each in reversed(record.checkpoints)]
    start = 0
    if query.after is not None:
        ends = [end for end, each in enumerate(every, 1) if each.id == query.after]
        if not ends:
            raise InvalidRequest(f"after is {quote(query.after)}; there is no such checkpoint", param="after")
        start = ends[0]
    end = start + query.limit
    shown = FinetuningCheckpointList.of(every[start:end], has_more=len(every) > end)
    return json_response(shown, ignored_query(request, "after", "limit"))
