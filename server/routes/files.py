"""/v1/files: files that clients upload, and that batches and fine-tuning jobs write for them."""

import re
from typing import Any
from urllib.parse import quote as percent_encoded

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import FileResponse, JSONResponse, Response

from engine.errors import InvalidRequest
from server.errors import NotStored
from server.files.table import File
from server.http.body import Context, json_response
from server.http.form import read_form
from server.http.query import ignored_query, page_query
from server.schemas.base import quote, validate
from server.schemas.files import BATCH, FileList, FileListQuery, FileObject, UploadFields
from server.schemas.parameters import ignored_header, ignored_parameters

router = APIRouter(tags=["Files and batches"])

_MAX_FILENAME = 255  # characters
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


@router.post("/v1/files")
async def create_file(request: Request, context: Context) -> Response:
    """Upload a file."""
    files = context.files
    async with files.upload() as upload:
        form = await read_form(request, "file", upload.write)
        if form.filename is None:
            raise InvalidRequest("file is missing; it is required, with a filename", param="file")
        fields = validate(UploadFields, _nested(form.fields))
        ignored = ignored_parameters(fields.extra, strict=context.config.strict_parameters)
        after = fields.expires_after
        default_s = context.config.storage.batch_max_age if fields.purpose == BATCH else None
        file = await upload.finish(
            owner=request.state.owner,
            purpose=fields.purpose,
            filename=plain_name(form.filename),
            expires_after_s=default_s if after is None else after.seconds,
        )
    return json_response(file_object(file), ignored_header(ignored))


@router.get("/v1/files")
async def list_files(request: Request, context: Context) -> Response:
    """List the caller's files, newest first."""
    query = page_query(request, FileListQuery, "order", "purpose")
    page = await context.files.page(
        request.state.owner,
        purpose=query.purpose,
        after=query.after,
        limit=query.limit,
        is_ascending=query.order == "asc",
    )
    if page is None:
        raise InvalidRequest(f"after is {quote(query.after)}; there is no such file", param="after")
    answer = FileList.of([file_object(each) for each in page.files], has_more=page.has_more)
    return json_response(answer, ignored_query(request, "after", "limit", "order", "purpose"))


@router.get("/v1/files/{file_id}")
async def get_file(request: Request, context: Context, file_id: str) -> Response:
    """Describe a file."""
    return json_response(file_object(await _find(request, context, file_id)), {})


@router.get("/v1/files/{file_id}/content")
async def get_file_content(request: Request, context: Context, file_id: str) -> Response:
    """Download a file's content."""
    file = await _find(request, context, file_id)
    name = percent_encoded(file.filename, safe="")
    headers = {"content-disposition": f"attachment; filename*=UTF-8''{name}", "x-content-type-options": "nosniff"}
    return FileResponse(context.files.disk.path(file.id), media_type="application/octet-stream", headers=headers)


@router.delete("/v1/files/{file_id}")
async def delete_file(request: Request, context: Context, file_id: str) -> JSONResponse:
    """Delete a file, unless an unfinished batch or fine-tuning job reads it."""
    if not await context.files.delete(file_id, request.state.owner):
        raise _no_file(file_id)
    return JSONResponse({"id": file_id, "object": "file", "deleted": True})


async def _find(request: Request, context: Context, file_id: str) -> File:
    file = await context.files.find(file_id, request.state.owner)
    if file is None:
        raise _no_file(file_id)
    return file


def _no_file(file_id: str) -> NotStored:
    return NotStored(f"No such File object: {file_id[:80]}", param="id")


def file_object(file: File) -> FileObject:
    return FileObject(
        id=file.id,
        bytes=file.bytes,
        created_at=file.created_s,
        expires_at=file.expires_s,
        filename=file.filename,
        purpose=file.purpose,
        derived_from=msgspec.UNSET if file.derived_from is None else file.derived_from,
    )


def _nested(fields: dict[str, str]) -> dict[str, Any]:
    """Convert form fields to nested JSON: expires_after[seconds]=60 becomes {"expires_after": {"seconds": 60}}."""
    body: dict[str, Any] = {}
    for name, value in fields.items():
        outer, bracket, inner = name.partition("[")
        if bracket and inner.endswith("]"):
            is_number = value.isascii() and value.isdecimal() and len(value) <= 12
            body.setdefault(outer, {})
            if isinstance(body[outer], dict):
                body[outer][inner.removesuffix("]")] = int(value) if is_number else value
        else:
            body[name] = value
    return body


def plain_name(filename: str) -> str:
    """Return the last component of a client's filename, for display only: the server never uses it as a path."""
    name = _UNPRINTABLE.sub("", re.split(r"[/\\]", filename)[-1])[-_MAX_FILENAME:]
    return name or "file"
