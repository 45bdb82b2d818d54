"""OpenAPI descriptions of the routes of files, batches and fine-tuning jobs."""

from collections.abc import Mapping
from functools import partial

from engine.errors import EngineUnavailable
from server.errors import FileTooLarge, StorageFailed, StorageFull
from server.openapi.operation import BYTES, JSON, PAGE, STORED_ERRORS, Operation, Query
from server.schemas import plain_answers as plain
from server.schemas.batch_answers import BatchList, BatchObject
from server.schemas.files import FILE_PURPOSES, MAX_EXPIRY_S, MIN_EXPIRY_S, UPLOAD_PURPOSES, FileList, FileObject
from server.schemas.finetuning_answers import (
    FinetuningCheckpointList,
    FinetuningEventList,
    FinetuningJobList,
    FinetuningJobObject,
)
from server.schemas.graders import GraderRun, GraderValidation
from server.schemas.uploads import UploadObject, UploadPartObject

_UPLOAD = {
    "type": "object",
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"enum": list(UPLOAD_PURPOSES)},
        "expires_after[anchor]": {"enum": ["created_at"]},
        "expires_after[seconds]": {"type": "integer", "minimum": MIN_EXPIRY_S, "maximum": MAX_EXPIRY_S},
    },
    "required": ["file", "purpose"],
}
_PART = {
    "type": "object",
    "properties": {"data": {"type": "string", "format": "binary"}},
    "required": ["data"],
}
_FILE_PAGE = (
    Query("after", {"type": "string"}, "Begin after the file with this id."),
    Query("limit", {"type": "integer", "minimum": 1, "maximum": 10_000}, "Maximum number (default: 10,000)."),
    Query("order", {"enum": ["asc", "desc"]}, "Order by time (default: desc, newest first)."),
    Query("purpose", {"enum": list(FILE_PURPOSES)}, "Only files with this purpose."),
)
_LONG_PAGE = (
    PAGE[0],
    Query("limit", {"type": "integer", "minimum": 1, "maximum": 1000}, "Maximum number (default: 20)."),
)
_GRADER = {
    "type": "string_check",
    "name": "knows",
    "operation": "ilike",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
}
_METADATA = Query("metadata", {"enum": ["null"]}, "Jobs without metadata; `metadata[KEY]=VALUE` is those with a pair.")

_stored = partial(Operation, errors=STORED_ERRORS)
_listed = partial(Operation, errors=(StorageFailed,))

STORED_OPERATIONS: Mapping[str, Operation] = {
    "POST /v1/files": Operation(answers={JSON: FileObject}, form=_UPLOAD, errors=(StorageFailed, StorageFull)),
    "GET /v1/files": _listed(answers={JSON: FileList}, query=_FILE_PAGE),
    "GET /v1/files/{file_id}": _stored(answers={JSON: FileObject}),
    "GET /v1/files/{file_id}/content": _stored(answers={BYTES: None}),
    "DELETE /v1/files/{file_id}": _stored(answers={JSON: plain.Deleted}),
    "POST /v1/uploads": Operation(
        answers={JSON: UploadObject},
        example={"bytes": 2, "filename": "lines.jsonl", "mime_type": "text/jsonl", "purpose": "batch"},
        errors=(StorageFailed, StorageFull, FileTooLarge),
    ),
    "POST /v1/uploads/{upload_id}/parts": Operation(
        answers={JSON: UploadPartObject}, form=_PART, errors=(*STORED_ERRORS, StorageFull)
    ),
    "POST /v1/uploads/{upload_id}/complete": Operation(
        answers={JSON: UploadObject}, example={"part_ids": ["PART"]}, errors=(*STORED_ERRORS, StorageFull)
    ),
    "POST /v1/uploads/{upload_id}/cancel": _stored(answers={JSON: UploadObject}),
    "POST /v1/batches": Operation(
        answers={JSON: BatchObject},
        example={"input_file_id": "FILE", "endpoint": "/v1/chat/completions", "completion_window": "24h"},
        errors=(*STORED_ERRORS, EngineUnavailable),
    ),
    "GET /v1/batches": _listed(answers={JSON: BatchList}, query=PAGE[:2]),
    "GET /v1/batches/{batch_id}": _stored(answers={JSON: BatchObject}),
    "POST /v1/batches/{batch_id}/cancel": _stored(answers={JSON: BatchObject}),
    "POST /v1/fine_tuning/jobs": Operation(
        answers={JSON: FinetuningJobObject},
        example={"model": "MODEL", "training_file": "TRAINING_FILE", "suffix": "demo"},
        errors=(StorageFailed, EngineUnavailable),
    ),
    "GET /v1/fine_tuning/jobs": _listed(answers={JSON: FinetuningJobList}, query=(*_LONG_PAGE, _METADATA)),
    "GET /v1/fine_tuning/jobs/{job_id}": _stored(answers={JSON: FinetuningJobObject}),
    "POST /v1/fine_tuning/alpha/graders/validate": Operation(
        answers={JSON: GraderValidation}, example={"grader": _GRADER}, errors=(EngineUnavailable,)
    ),
    "POST /v1/fine_tuning/alpha/graders/run": Operation(
        answers={JSON: GraderRun},
        example={"grader": _GRADER, "item": {"answer": "Paris"}, "model_sample": "It is Paris."},
        errors=(EngineUnavailable,),
    ),
    "POST /v1/fine_tuning/jobs/{job_id}/cancel": _stored(answers={JSON: FinetuningJobObject}),
    "POST /v1/fine_tuning/jobs/{job_id}/pause": _stored(answers={JSON: FinetuningJobObject}),
    "POST /v1/fine_tuning/jobs/{job_id}/resume": _stored(answers={JSON: FinetuningJobObject}),
    "GET /v1/fine_tuning/jobs/{job_id}/events": _stored(answers={JSON: FinetuningEventList}, query=_LONG_PAGE),
    "GET /v1/fine_tuning/jobs/{job_id}/checkpoints": _stored(
        answers={JSON: FinetuningCheckpointList}, query=_LONG_PAGE
    ),
}
