"""BatchRecord and BATCHES: everything that is stored of a batch, and the table of batches."""

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
    """A row of the table. Times are in seconds since 1970.

    output_name, error_name: names of the files on the disk that are written, and become the owner's at the end; None
    before anything may be written. output_bytes, error_bytes: how much of them counts. These bytes were synced before
    the numbers were stored; bytes behind them do not count. `completed` lines are in the output, `failed` ones in the
    errors.
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
        """Take the status, and note the time."""
        self.status = status
        if status is not BatchStatus.VALIDATING:
            setattr(self, f"{status.value}_at", int(now_s))

    def is_late(self, now_s: float) -> bool:
        """Return whether the completion window is over."""
        return now_s >= self.expires_at

    @property
    def ended_s(self) -> int | None:
        """The time of the batch's end; None before."""
        times = (self.completed_at, self.failed_at, self.expired_at, self.cancelled_at)
        return next((each for each in times if each is not None), None)

    @property
    def unfinished_files(self) -> list[str]:
        """Names of the files on the disk that are written, and that clients do not see yet."""
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
    """Return the batch as clients see it."""
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
