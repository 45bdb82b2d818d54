"""/v1/batches: files of requests that run in the background."""

from sqlite3 import Connection

from fastapi import APIRouter, Request
from starlette.responses import Response

from engine.errors import InvalidRequest
from server.batches.record import BATCHES, BatchRecord, batch_object
from server.context import ServerContext
from server.endpoints.binding.registry import BATCH_ENDPOINTS
from server.errors import NotStored
from server.http.body import Context, Json, ignored_body, json_response
from server.http.query import ignored_query, page_query
from server.protocols.responses.objects import new_id
from server.schemas.base import quote
from server.schemas.batch_answers import BatchList, BatchStatus
from server.schemas.batches import BatchListQuery, BatchRequest, window_s
from server.schemas.files import BATCH

router = APIRouter(tags=["Files and batches"])

_MAX_ACTIVE = 1000  # batches of one owner that have not ended


@router.post("/v1/batches")
async def create_batch(request: Request, context: Context, body: Json[BatchRequest]) -> Response:
    """Run the requests of a file in the background, within a time limit."""
    headers = ignored_body(body, context)
    context.drain.check()
    if body.endpoint not in BATCH_ENDPOINTS:
        known = ", ".join(BATCH_ENDPOINTS)
        raise InvalidRequest(f"endpoint is {quote(body.endpoint)}; it must be one of {known}", param="endpoint")
    owner = request.state.owner
    await _check_input(context, owner, body.input_file_id)
    now_s = int(context.files.clock())
    record = BatchRecord(
        id=new_id("batch"),
        owner=owner,
        endpoint=body.endpoint,
        input_file_id=body.input_file_id,
        completion_window=body.completion_window,
        created_at=now_s,
        expires_at=now_s + window_s(body.completion_window),
        metadata=body.metadata,
        output_expires_after_s=None if body.output_expires_after is None else body.output_expires_after.seconds,
    )

    def work(connection: Connection) -> None:
        if BATCHES.num_active(connection, owner) >= _MAX_ACTIVE:
            raise InvalidRequest(f"{_MAX_ACTIVE} batches have not ended, which is the limit; wait until one has")
        BATCHES.insert(connection, record)

    await context.files.database.run(work, is_durable=True)
    context.wake_job(record.id)
    return _json(record, headers)


async def _check_input(context: ServerContext, owner: str, file_id: str) -> None:
    """Raise NotStored if the owner has no such input file, and InvalidRequest if its purpose is not `batch`."""
    file = await context.files.find(file_id, owner)
    if file is None:
        raise NotStored(f"No such File object: {file_id[:80]}", param="input_file_id")
    if file.purpose != BATCH:
        raise InvalidRequest(
            f"the file {quote(file_id)} has the purpose {quote(file.purpose)}; upload it with {quote(BATCH)}",
            param="input_file_id",
        )


@router.get("/v1/batches")
async def list_batches(request: Request, context: Context) -> Response:
    """List the caller's batches, newest first."""
    query = page_query(request, BatchListQuery)
    owner = request.state.owner
    page = await context.files.database.run(
        lambda connection: BATCHES.page(connection, owner, query.after, query.limit)
    )
    if page is None:
        raise InvalidRequest(f"after is {quote(query.after)}; there is no such batch", param="after")
    records, has_more = page
    shown = BatchList.of([batch_object(each) for each in records], has_more=has_more)
    return json_response(shown, ignored_query(request, "after", "limit"))


@router.get("/v1/batches/{batch_id}")
async def get_batch(request: Request, context: Context, batch_id: str) -> Response:
    """Retrieve a batch, with its progress."""
    owner = request.state.owner
    record = await context.files.database.run(lambda connection: BATCHES.find(connection, batch_id, owner))
    if record is None:
        raise _no_batch(batch_id)
    return _json(record, {})


@router.post("/v1/batches/{batch_id}/cancel")
async def cancel_batch(request: Request, context: Context, batch_id: str) -> Response:
    """Cancel a batch. Once its status is `cancelled`, its files contain the answers so far."""
    owner = request.state.owner

    def work(connection: Connection) -> BatchRecord | None:
        record = BATCHES.find(connection, batch_id, owner)
        if record is None:
            return None
        if record.status.has_ended:
            raise InvalidRequest(
                f"Cannot cancel a batch with status '{record.status.value}'.", param="batch_id", code="batch_has_ended"
            )
        if record.status in (BatchStatus.CANCELLING, BatchStatus.FINALIZING):  # finalizing takes a moment
            return record
        return BATCHES.change(
            connection, batch_id, lambda each: each.enter(BatchStatus.CANCELLING, context.files.clock())
        )

    record = await context.files.database.run(work, is_durable=True)
    if record is None:
        raise _no_batch(batch_id)
    context.wake_job(record.id)
    return _json(record, {})


def _no_batch(batch_id: str) -> NotStored:
    return NotStored(f"No batch found with id '{batch_id[:80]}'.")


def _json(record: BatchRecord, headers: dict[str, str]) -> Response:
    return json_response(batch_object(record), headers)
