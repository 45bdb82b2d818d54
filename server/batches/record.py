"""BatchRecord and BATCHES: the stored record of a batch, and the table of batches."""

import msgspec

from server.jobs.answers import AnswerUsage
from server.jobs.table import JobTable
from server.schemas.batch_answers import (
    BatchErrors,
    BatchObject,
    BatchStatus,
    BatchUsage,
    CachedTokens,
    LineFault,
    ReasoningTokens,
    RequestCounts,
)


class BatchRecord(msgspec.Struct, kw_only=True):
    """A row of the table of batches. Times are in seconds since 1970.

    output_name, error_name: names on the disk of the files being written; None before the input is validated, and after
    the owner got them. output_bytes, error_bytes: their committed sizes; these bytes were synced before the sizes were
    stored, and later bytes are ignored. active_s: seconds for which lines ran, without pauses for clients and the time
    between two servers. completed, failed: numbers of lines in the output file and in the error file.
    """

    id: str
    owner: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int
    status: BatchStatus = BatchStatus.VALIDATING
    metadata: dict[str, str] | None = None
    output_expires_after_s: int | None = None
    model: str | None = None
    errors: list[LineFault] = []
    total: int = 0
    completed: int = 0
    failed: int = 0
    active_s: float = 0.0
    usage: AnswerUsage = msgspec.field(default_factory=AnswerUsage)
    output_name: str | None = None
    error_name: str | None = None
    output_bytes: int = 0
    error_bytes: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None

    def enter(self, status: BatchStatus, now_s: float) -> None:
        """Set the status, and the `..._at` timestamp at which the batch entered it."""
        self.status = status
        if status is not BatchStatus.VALIDATING:
            setattr(self, f"{status.value}_at", int(now_s))

    def is_late(self, now_s: float) -> bool:
        """Return whether the completion window is over."""
        return now_s >= self.expires_at

    @property
    def ended_s(self) -> int | None:
        """When the batch ended, in seconds since 1970; None if it has not."""
        times = (self.completed_at, self.failed_at, self.expired_at, self.cancelled_at)
        return next((each for each in times if each is not None), None)

    @property
    def unfinished_files(self) -> list[str]:
        """Names on the disk of the files being written, which clients do not see yet."""
        return [name for name in (self.output_name, self.error_name) if name is not None]


BATCHES = JobTable(
    "batches",
    BatchRecord,
    BatchStatus,
    noun="batch",
    columns={"input_file": lambda record: record.input_file_id, "ended_s": lambda record: record.ended_s},
    file_columns=("input_file",),
)


def batch_object(record: BatchRecord) -> BatchObject:
    """Return the batch as the API's object."""
    usage = record.usage
    shown = {
        "errors": BatchErrors(record.errors) if record.errors else None,
        "request_counts": RequestCounts(record.total, record.completed, record.failed),
        "usage": BatchUsage(
            usage.input_tokens,
            CachedTokens(usage.cached_tokens),
            usage.output_tokens,
            ReasoningTokens(usage.reasoning_tokens),
            usage.input_tokens + usage.output_tokens,
        ),
    }
    return msgspec.convert({**msgspec.structs.asdict(record), **shown}, BatchObject)
