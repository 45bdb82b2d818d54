"""/v1/uploads: uploads of large files in parts."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from engine.errors import InvalidRequest
from server.files.table import File, PartedUpload
from server.files.uploads import Uploads
from server.http.body import Context, Json, ignored_body, json_response
from server.http.form import read_form
from server.routes.files import file_object, plain_name
from server.schemas.files import BATCH
from server.schemas.parameters import ignored_header, ignored_parameters
from server.schemas.uploads import UploadCompletion, UploadObject, UploadPartObject, UploadRequest

router = APIRouter(tags=["Files and batches"])


@router.post("/v1/uploads")
async def create_upload(request: Request, context: Context, body: Json[UploadRequest]) -> Response:
    """Start the upload of a file in parts, which must be complete within an hour."""
    ignored = ignored_parameters(body.extra, strict=context.config.strict_parameters)
    default_s = int(context.config.storage.batch_max_age) if body.purpose == BATCH else None
    upload = await Uploads(context.files).create(
        owner=request.state.owner,
        purpose=body.purpose,
        filename=plain_name(body.filename),
        num_bytes=body.bytes,
        file_expires_after_s=default_s if body.expires_after is None else body.expires_after.seconds,
    )
    return json_response(_shown(upload), ignored_header(["mime_type", *ignored]))


@router.post("/v1/uploads/{upload_id}/parts")
async def add_upload_part(request: Request, context: Context, upload_id: str) -> Response:
    """Upload a part of the file, of 64 MiB at most. Parts can be uploaded in parallel."""
    async with Uploads(context.files).part(upload_id, request.state.owner) as writer:
        form = await read_form(request, "data", writer.write)
        if form.filename is None:
            raise InvalidRequest("data is missing; it is required, as a file of the form", param="data")
        ignored = ignored_parameters(form.fields, strict=context.config.strict_parameters)
    assert writer.part is not None
    answer = UploadPartObject(id=writer.part.id, created_at=int(context.files.clock()), upload_id=upload_id)
    return json_response(answer, ignored_header(ignored))


@router.post("/v1/uploads/{upload_id}/complete")
async def complete_upload(request: Request, context: Context, upload_id: str, body: Json[UploadCompletion]) -> Response:
    """Join the uploaded parts into a file."""
    headers = ignored_body(body, context)
    uploads = Uploads(context.files)
    upload, file = await uploads.complete(upload_id, request.state.owner, body.part_ids, body.md5)
    return json_response(_shown(upload, file), headers)


@router.post("/v1/uploads/{upload_id}/cancel")
async def cancel_upload(request: Request, context: Context, upload_id: str) -> Response:
    """Cancel an upload and delete its parts."""
    return json_response(_shown(await Uploads(context.files).cancel(upload_id, request.state.owner)), {})


def _shown(upload: PartedUpload, file: File | None = None) -> UploadObject:
    return UploadObject(
        id=upload.id,
        bytes=upload.bytes,
        created_at=upload.created_s,
        expires_at=upload.expires_s,
        filename=upload.filename,
        purpose=upload.purpose,
        status=upload.status.value,
        file=None if file is None else file_object(file),
    )
