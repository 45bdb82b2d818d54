"""Bodies and responses of /v1/uploads."""

from typing import Annotated, Literal

import msgspec
from pydantic import Field

from server.schemas.base import StrictModel
from server.schemas.files import ExpiresAfter, FileObject, UploadPurpose


class UploadRequest(StrictModel):
    bytes: Annotated[int, Field(ge=1)]
    filename: Annotated[str, Field(min_length=1)]
    mime_type: str
    purpose: UploadPurpose
    expires_after: ExpiresAfter | None = None

    inner_fields = ("expires_after",)


class UploadCompletion(StrictModel):
    part_ids: Annotated[list[str], Field(min_length=1, max_length=10_000)]
    md5: str | None = None


class UploadObject(msgspec.Struct, kw_only=True):
    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: FileObject | None = None


class UploadPartObject(msgspec.Struct, kw_only=True):
    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str
