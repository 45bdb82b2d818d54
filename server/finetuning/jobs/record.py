"""FinetuningRecord: the stored record of a fine-tuning job, and the names of jobs, adapters, events and checkpoints.

The names follow OpenAI's: `ftjob-ID` and `ft:BASE:headrace:SUFFIX:ID`.
"""

import re
import secrets
import string
from typing import Any

import msgspec

from engine.command_io.finetuning.job import Hyperparameters, TrainingMethod
from server.schemas.finetuning_answers import ORGANIZATION, FinetuningError, FinetuningStatus

_JOB_PREFIX = "ftjob-"
_ALPHABET = string.ascii_letters + string.digits
_JOB_CHARACTERS, _NAME_CHARACTERS = 24, 8
_CHECKPOINT = ":ckpt-step-"
_NOT_IN_BASES = re.compile(r"[^A-Za-z0-9._-]+")


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """The final hyperparameters, given by the client or chosen by the trainer."""

    n_epochs: int
    batch_size: int
    learning_rate: float
    lora_rank: int
    total_steps: int
    beta: float | None = None


class FinetuningCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """The adapter after an epoch. metrics: metrics in the trainer's event."""

    step: int
    created_at: int
    metrics: dict[str, Any] = {}


class FinetuningRecord(msgspec.Struct, kw_only=True):
    """A row of the table of jobs. Times are in seconds since 1970.

    model: the name in the client's request. base_model: canonical name of the base model. start: path of the adapter
    that training continues from, relative to --data-dir if inside. name: the adapter's name, reserved at creation and
    served once the job has succeeded. hyperparameters: as requested, None where the trainer chooses. resolved: final
    hyperparameters. prepared_file: the file after data_preparation. grader: JSON of the grader for reinforcement.
    is_prepared: the JobFolder has all trainer input. events_bytes: how much of the trainer's events.jsonl has been
    read into the table of events; steps that a restarted trainer reports again are skipped. step: the last step in that
    table. is_deleted: the finished adapter was deleted.

    The status is also the command channel: routes set `paused`, `queued` and `cancelled`, and the runner follows. Code
    that edits a record must first check that its status is still the expected one.
    """

    id: str
    owner: str
    created_at: int
    model: str
    base_model: str
    training_file: str
    name: str
    method: TrainingMethod = TrainingMethod.SUPERVISED
    hyperparameters: Hyperparameters = Hyperparameters()
    grader: dict[str, Any] | None = None
    seed: int = 0
    validation_file: str | None = None
    start: str | None = None
    suffix: str | None = None
    metadata: dict[str, str] | None = None
    status: FinetuningStatus = FinetuningStatus.VALIDATING_FILES
    is_prepared: bool = False
    resolved: Resolved | None = None
    checkpoints: list[FinetuningCheckpoint] = []
    error: FinetuningError | None = None
    result_files: list[str] = []
    prepared_file: str | None = None
    trained_tokens: int | None = None
    estimated_finish: int | None = None
    started_at: int | None = None
    finished_at: int | None = None
    events_bytes: int = 0
    step: int = 0
    is_deleted: bool = False

    def enter(self, status: FinetuningStatus, now_s: float) -> None:
        """Set the status, and the times of the first start and of the end."""
        self.status = status
        if status is FinetuningStatus.RUNNING and self.started_at is None:
            self.started_at = int(now_s)
        if status is not FinetuningStatus.RUNNING:
            self.estimated_finish = None
        if status.has_ended:
            self.finished_at = int(now_s)

    @property
    def has_adapter(self) -> bool:
        """Whether the final adapter exists, to be served whenever the base model is."""
        return self.status is FinetuningStatus.SUCCEEDED and not self.is_deleted

    def checkpoint_name(self, step: int) -> str:
        """Return the name under which the checkpoint is served."""
        return f"{self.name}{_CHECKPOINT}{step}"


# --- names -----------------------------------------------------------------------------------------------------------


def new_job_id() -> str:
    return _JOB_PREFIX + _random(_JOB_CHARACTERS)


def new_model_name(base: str, suffix: str | None) -> str:
    """Return a new name for an adapter. base: served name of the base model; its last path component is used.
    suffix: validated by the schema to have no colon."""
    return f"ft:{_base_part(base)}:{ORGANIZATION}:{suffix or ''}:{_random(_NAME_CHARACTERS)}"


def split_checkpoint_name(name: str) -> tuple[str, int | None]:
    """Split a name into the adapter's name, and the step if it is a checkpoint's name."""
    model_name, found, digits = name.rpartition(_CHECKPOINT)
    if not found or not (digits.isascii() and digits.isdecimal()) or str(int(digits[:18])) != digits:
        return name, None
    return model_name, int(digits)


def event_id(job_id: str, number: int) -> str:
    return f"ftevent-{job_id.removeprefix(_JOB_PREFIX)}-{number}"


def event_number(job_id: str, given: str) -> int | None:
    """Parse the id of an event of this job, and return the event's number; None if `given` is not such an id."""
    digits = given.removeprefix(event_id(job_id, 0)[:-1])
    number = int(digits) if digits.isascii() and digits.isdecimal() and len(digits) <= 18 else None
    return number if number is not None and event_id(job_id, number) == given else None


def checkpoint_id(job_id: str, step: int) -> str:
    return f"ftckpt_{job_id.removeprefix(_JOB_PREFIX)}_{step}"


def _base_part(base: str) -> str:
    last = base.rstrip("/").rpartition("/")[2].removesuffix(".gguf")
    return _NOT_IN_BASES.sub("-", last).strip("-") or "model"


def _random(count: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(count))
