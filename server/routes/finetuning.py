"""/v1/fine_tuning/jobs: adapters of served models, trained on clients' files."""

import time
from collections.abc import Sequence
from sqlite3 import Connection

from fastapi import APIRouter, Request
from starlette.responses import Response

from engine.command_io.finetuning.events import JobEvent
from engine.errors import InvalidRequest
from server.context import ServerContext
from server.errors import NotStored
from server.finetuning.jobs import table
from server.finetuning.jobs.creation import ignored_integrations, new_record
from server.finetuning.jobs.objects import job_object
from server.finetuning.jobs.record import FinetuningRecord
from server.finetuning.jobs.requested_grader import requested_grader
from server.http.body import Context, Json, json_response
from server.http.idempotency import body_digest, idempotency_key
from server.http.query import ignored_query, page_query
from server.schemas.base import quote
from server.schemas.finetuning import FinetuningPageQuery, FinetuningRequest
from server.schemas.finetuning_answers import FinetuningJobList
from server.schemas.parameters import ignored_header, ignored_parameters, refuse_unknown

router = APIRouter(tags=["Fine-tuning"])

_MAX_PAIRS = 16  # of metadata, at most
_MAX_ACTIVE = 100  # jobs of one owner that have not ended
_PAIR = "metadata["


@router.post("/v1/fine_tuning/jobs")
async def create_fine_tuning_job(request: Request, context: Context, body: Json[FinetuningRequest]) -> Response:
    """Start a fine-tuning job: train an adapter of a served model on a file, and serve it under a new name."""
    context.drain.check()
    grader, integrations = requested_grader(body), ignored_integrations(body)
    unused = [*integrations, *([] if grader is None else grader.ignored)]
    if context.config.strict_parameters:
        refuse_unknown(unused)
    ignored = [*ignored_parameters(body.extra, strict=context.config.strict_parameters), *unused]
    owner, key, database = request.state.owner, _request_key(request, body), context.files.database
    record = await database.run(lambda connection: _made_before(connection, owner, key))
    if record is None:
        new = await new_record(context, owner, body, grader)
        events = _first_events(new, integrations)
        record = await database.run(lambda connection: _insert(connection, new, key, events), is_durable=True)
        context.wake_job(record.id)
    return job_answer(record, ignored_header(ignored))


def _request_key(request: Request, body: FinetuningRequest) -> tuple[str, str] | None:
    """Return the client's Idempotency-Key and a digest of the request's body; None if the client sent no key."""
    key = idempotency_key(request)
    return None if key is None else (key, body_digest(body.model_dump(mode="json")).hex())


def _made_before(connection: Connection, owner: str, key: tuple[str, str] | None) -> FinetuningRecord | None:
    found = None if key is None else table.made_by(connection, owner, key[0])
    if found is None or key is None:
        return None
    record, digest = found
    if digest != key[1]:
        raise InvalidRequest(
            f"the Idempotency-Key was sent before with another request, which made {record.id}; send a new one",
            code="idempotency_key_reused",
        )
    return record


def _first_events(record: FinetuningRecord, integrations: Sequence[str]) -> list[JobEvent]:
    now_s = time.time()
    events = [JobEvent(created_at=now_s, message=f"Created fine-tuning job: {record.id}")]
    if integrations:
        message = (
            "integrations are ignored: this server sends nothing to other services; all metrics are in its events and "
            "in the results file"
        )
        events.append(JobEvent(created_at=now_s, message=message, level="warn"))
    return events


def _insert(
    connection: Connection, record: FinetuningRecord, key: tuple[str, str] | None, events: list[JobEvent]
) -> FinetuningRecord:
    if (before := _made_before(connection, record.owner, key)) is not None:
        return before
    if table.FINETUNING_JOBS.num_active(connection, record.owner) >= _MAX_ACTIVE:
        raise InvalidRequest(f"{_MAX_ACTIVE} jobs have not ended, which is the limit; cancel one, or wait")
    table.insert_job(connection, record, key)
    table.FINETUNING_JOBS.add_events(connection, record.id, events)
    return record


@router.get("/v1/fine_tuning/jobs")
async def list_fine_tuning_jobs(request: Request, context: Context) -> Response:
    """List the caller's fine-tuning jobs, newest first. `metadata[KEY]=VALUE` selects jobs with that metadata."""
    query = page_query(request, FinetuningPageQuery)
    metadata, has_none = _metadata_filter(request)
    owner = request.state.owner
    page = await context.files.database.run(
        lambda connection: table.jobs_page(
            connection, owner, query.after, query.limit, metadata=metadata, has_no_metadata=has_none
        )
    )
    if page is None:
        raise InvalidRequest(f"after is {quote(query.after)}; there is no such job", param="after")
    records, has_more = page
    shown = FinetuningJobList.of([job_object(each) for each in records], has_more=has_more)
    pairs = [name for name in request.query_params if name.startswith(_PAIR)]
    return json_response(shown, ignored_query(request, "after", "limit", "metadata", *pairs))


def _metadata_filter(request: Request) -> tuple[dict[str, str], bool]:
    """Return the metadata pairs that listed jobs must have, and whether to list only jobs without metadata."""
    pairs: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if not name.startswith(_PAIR):
            continue
        key = name.removeprefix(_PAIR).removesuffix("]")
        if not name.endswith("]") or pairs.get(key, value) != value:
            raise InvalidRequest(f"{quote(name)} must be given once, as metadata[KEY]=VALUE", param="metadata")
        pairs[key] = value
    if len(pairs) > _MAX_PAIRS:
        raise InvalidRequest(
            f"metadata has {len(pairs)} pairs; jobs have at most {_MAX_PAIRS}: ask for fewer", param="metadata"
        )
    given = request.query_params.get("metadata")
    if given not in (None, "null") or (given is not None and pairs):
        raise InvalidRequest(
            f"metadata is {quote(given)}; write metadata[KEY]=VALUE, or metadata=null alone for jobs without any",
            param="metadata",
        )
    return pairs, given is not None


@router.get("/v1/fine_tuning/jobs/{job_id}")
async def get_fine_tuning_job(request: Request, context: Context, job_id: str) -> Response:
    """Retrieve a fine-tuning job, with its progress and results."""
    return job_answer(await find_job(request, context, job_id), {})


async def find_job(request: Request, context: ServerContext, job_id: str) -> FinetuningRecord:
    """Return the caller's job. Raises NotStored."""
    owner = request.state.owner
    record = await context.files.database.run(lambda connection: table.FINETUNING_JOBS.find(connection, job_id, owner))
    if record is None:
        raise no_job(job_id)
    return record


def no_job(job_id: str) -> NotStored:
    return NotStored(f"Could not find fine tune: {job_id[:80]}", param="fine_tuning_job_id")


def job_answer(record: FinetuningRecord, headers: dict[str, str]) -> Response:
    return json_response(job_object(record), headers)
