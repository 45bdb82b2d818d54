"""Answers about batches, fine-tuning jobs and files, for the dashboard's view of jobs."""

import enum

import msgspec

from server.schemas.batch_answers import LineFault


class JobUnit(enum.StrEnum):
    """The unit in which a job's progress is counted."""

    LINE = "line"
    STEP = "step"


class JobSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of a batch or fine-tuning job. Times are in seconds since 1970. No field has text of the job's files.

    kind: "batch", or the method of a fine-tuning job. done, total: progress in `unit`; `total` is 0 until it is known.
    failed: lines that were answered with an error. left_s: estimated seconds until the end; null while that is unknown.
    A batch counts work alone, to which pauses for clients come. run_s: for how long this server has run a batch's lines
    until now, and paused_s for how much of that they made way for clients; null if it does not run them. is_paused:
    whether a batch stands still while clients are served. waits_for: why a job stands still, if that is the last thing
    it reported. key: the owner's name, as KeyRing.owner_name returns it. is_own: whether the caller owns the job.
    """

    id: str
    kind: str
    model: str | None
    status: str
    has_ended: bool
    done: int
    total: int
    failed: int
    unit: JobUnit
    left_s: float | None
    run_s: float | None
    paused_s: float | None
    is_paused: bool
    waits_for: str | None
    key: str
    is_own: bool
    created_at: int
    started_at: int | None
    ended_at: int | None


class FileSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A stored file. filename: null if the caller does not own the file."""

    id: str
    purpose: str
    bytes: int
    filename: str | None
    created_at: int
    expires_at: int | None
    key: str
    is_own: bool


class JobsReport(msgspec.Struct, frozen=True, kw_only=True):
    """The newest jobs and files that the caller may see, and the number and size of all these files.

    is_everyones: whether all keys' jobs are included. has_keys: whether the server has keys, so that owners differ.
    """

    jobs: list[JobSummary]
    files: list[FileSummary]
    num_files: int
    file_bytes: int
    is_everyones: bool
    has_keys: bool
    now: float


class CurvePoint(msgspec.Struct, frozen=True, array_like=True):
    """One training step: losses in nats, and mean rewards. A field is null if it was not measured."""

    step: int
    train_loss: float | None
    valid_loss: float | None
    train_reward: float | None
    valid_reward: float | None


class JobNote(msgspec.Struct, frozen=True):
    """An event of a fine-tuning job that is neither a step nor a sample."""

    at: float  # seconds since 1970
    level: str
    message: str


class JobSample(msgspec.Struct, frozen=True):
    """An answer of the adapter after an epoch. number: of its prompt, from 0. prompt: null if it is not recorded."""

    epoch: int
    number: int
    text: str
    prompt: str | None


class JobCheckpoint(msgspec.Struct, frozen=True):
    """The adapter after an epoch, and the name under which it is served."""

    name: str
    step: int


class TrainingDetails(msgspec.Struct, frozen=True, kw_only=True):
    """A fine-tuning job beyond its JobSummary.

    adapter: name of the final adapter; null until it exists. Only the owner gets `adapter`, `checkpoints`, `error` and
    `result_files`; others get null and empty lists.
    """

    n_epochs: int | None
    batch_size: int | None
    learning_rate: float | None
    lora_rank: int | None
    trained_tokens: int | None
    adapter: str | None
    checkpoints: list[JobCheckpoint]
    error_code: str | None
    error: str | None
    result_files: list[str]


class LineFailure(msgspec.Struct, frozen=True):
    """A line of a batch that was answered with an error. status: HTTP status; null if the line was not run."""

    custom_id: str
    status: int | None
    code: str
    message: str


class BatchDetails(msgspec.Struct, frozen=True, kw_only=True):
    """A batch beyond its JobSummary. Only the owner gets the last four fields; others get null and empty lists.

    input_faults: the first errors of an input file that was refused. failures: the first failed lines.
    """

    endpoint: str
    expires_at: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    num_input_faults: int
    input_faults: list[LineFault]
    failures: list[LineFailure]
    output_file_id: str | None
    error_file_id: str | None


class JobReport(msgspec.Struct, frozen=True, kw_only=True):
    """A batch or fine-tuning job, and the events of the latter that are newer than requested.

    curve: figures of training steps. notes, samples: only for the job's owner. next_event: number of the last event
    considered, for the next request. has_more: whether newer events are left. now: Unix time in seconds.
    """

    job: JobSummary
    has_keys: bool
    now: float
    batch: BatchDetails | None = None
    training: TrainingDetails | None = None
    curve: list[CurvePoint] = []
    notes: list[JobNote] = []
    samples: list[JobSample] = []
    next_event: int = 0
    has_more: bool = False
