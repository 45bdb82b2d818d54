"""Form fields of an uploaded file, query parameters of lists of files, and responses about files."""

from typing import Annotated, Literal, get_args

import msgspec
from pydantic import Field

from server.schemas.base import StrictModel
from server.schemas.plain_answers import ListPage

MIN_EXPIRY_S, MAX_EXPIRY_S = 3600, 30 * 86400  # OpenAI's

BATCH, BATCH_OUTPUT = "batch", "batch_output"
FINE_TUNE, FINE_TUNE_RESULTS = "fine-tune", "fine-tune-results"

UploadPurpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
UPLOAD_PURPOSES: tuple[str, ...] = get_args(UploadPurpose)
FilePurpose = Literal[UploadPurpose, "assistants_output", "batch_output", "fine-tune-results"]
FILE_PURPOSES: tuple[str, ...] = get_args(FilePurpose)


class ExpiresAfter(StrictModel):
    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=MIN_EXPIRY_S, le=MAX_EXPIRY_S)]


class UploadFields(StrictModel):
    purpose: UploadPurpose
    expires_after: ExpiresAfter | None = None


class FileListQuery(StrictModel):
    after: str | None = None
    limit: Annotated[int, Field(ge=1, le=10_000)] = 10_000
    order: Literal["asc", "desc"] = "desc"
    purpose: FilePurpose | None = None


class FileObject(msgspec.Struct, kw_only=True):
    """A file. Its status is always "processed". derived_from: id of the file that it was prepared from, if any."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    status_details: None = None
    derived_from: str | msgspec.UnsetType = msgspec.UNSET


class FileList(ListPage, frozen=True, kw_only=True):
    data: list[FileObject]
