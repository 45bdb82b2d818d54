"""FinetuneRecord: what is stored of a fine-tuning job."""

from typing import Any

import msgspec

from engine.command_io.finetuning.job import Hyperparameters, TrainingMethod
from server.finetuning.jobs.names import checkpoint_name
from server.schemas.finetune_answers import FinetuneError, FinetuneStatus


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """What the trainer chose, or was given."""

    n_epochs: int
    batch_size: int
    learning_rate: float
    lora_rank: int
    total_steps: int
    beta: float | None = None


class FinetuneCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """An epoch's adapter. metrics: of the trainer's event."""

    step: int
    created_at: int
    metrics: dict[str, Any] = {}


class FinetuneRecord(msgspec.Struct, kw_only=True):
    """A row of the table. Times are in seconds since 1970.

    model: as the client asked for it. base_model: the canonical name of the model that is changed. start: the folder of
    the adapter that training goes on with, as `stored_path` has it. name: reserved from the start, and served once the
    job has succeeded. hyperparameters: None where it is the trainer's to choose; `resolved` once it has. grader: of
    reinforcement, as the client wrote it. is_prepared: the files were validated, and the JobFolder has all that the
    trainer reads. events_bytes: of the trainer's events.jsonl, how much is in the table of events, or was left out: a
    trainer that was killed does some steps again, and tells so again. step: the last one that is there. is_deleted: the
    adapter is, by whoever may, after the job had succeeded.

    The status is also what is wanted: routes set `paused`, `queued` and `cancelled`, and the runner follows. Whoever
    edits a record looks first whether it still has the status that the edit is for.
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
    status: FinetuneStatus = FinetuneStatus.VALIDATING_FILES
    is_prepared: bool = False
    resolved: Resolved | None = None
    checkpoints: list[FinetuneCheckpoint] = []
    error: FinetuneError | None = None
    result_files: list[str] = []
    trained_tokens: int | None = None
    estimated_finish: int | None = None
    started_at: int | None = None
    finished_at: int | None = None
    events_bytes: int = 0
    step: int = 0
    is_deleted: bool = False

    def enter(self, status: FinetuneStatus, now_s: float) -> None:
        """Take the status, and note when where that counts."""
        self.status = status
        if status is FinetuneStatus.RUNNING and self.started_at is None:
            self.started_at = int(now_s)
        if status is not FinetuneStatus.RUNNING:
            self.estimated_finish = None
        if status.has_ended:
            self.finished_at = int(now_s)

    @property
    def has_adapter(self) -> bool:
        """Whether its own name is served, where its base model is."""
        return self.status is FinetuneStatus.SUCCEEDED and not self.is_deleted

    def checkpoint_name(self, step: int) -> str:
        """That the checkpoint is served under."""
        return checkpoint_name(self.name, step)
