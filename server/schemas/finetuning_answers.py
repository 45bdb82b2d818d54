"""Responses about fine-tuning jobs, in OpenAI's shape."""

import enum
from typing import Any, Literal

import msgspec

from server.schemas.plain_answers import ListPage

ORGANIZATION: Literal["headrace"] = "headrace"


class FinetuningStatus(enum.StrEnum):
    """The status of a fine-tuning job. A job may be paused at any time before it ends, and continues later."""

    VALIDATING_FILES = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def has_ended(self) -> bool:
        return self in ENDED


ENDED = (FinetuningStatus.SUCCEEDED, FinetuningStatus.FAILED, FinetuningStatus.CANCELLED)


class FinetuningError(msgspec.Struct, frozen=True):
    """The reason why a job failed. param: the request field that caused the failure, if any."""

    code: str
    message: str
    param: str | None = None


class HyperparametersObject(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Hyperparameters of a job. The first three are always present, and "auto" until training starts. The other
    fields are present once the client or the server has set them."""

    n_epochs: int | Literal["auto"]
    batch_size: int | Literal["auto"]
    learning_rate_multiplier: float | Literal["auto"]
    beta: float | Literal["auto"] | None = None
    rpo_alpha: float | None = None
    lora_rank: int | None = None
    lora_alpha: float | None = None
    target_modules: list[str] = []
    max_length: int | None = None
    warmup_ratio: float | None = None
    schedule: str | None = None
    weight_decay: float | None = None
    max_grad_norm: float | None = None
    replay: float | None = None
    early_stopping: int | None = None
    order: str | None = None
    pacing: str | None = None
    compute_multiplier: float | Literal["auto"] | None = None
    eval_interval: int | Literal["auto"] | None = None
    eval_samples: int | Literal["auto"] | None = None
    group_size: int | None = None
    max_completion_tokens: int | None = None
    kl_weight: float | None = None
    scale_rewards: str | None = None
    data_preparation: dict[str, Any] | None = None


class MethodSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Settings of a fine-tuning method. grader: only with reinforcement."""

    grader: dict[str, Any] | None = None
    hyperparameters: HyperparametersObject


class MethodObject(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The method of a fine-tuning job. Its settings are in the field that `type` names."""

    type: str
    supervised: MethodSettings | None = None
    dpo: MethodSettings | None = None
    pretraining: MethodSettings | None = None
    reinforcement: MethodSettings | None = None


class FinetuningJobObject(msgspec.Struct, frozen=True, kw_only=True):
    """A fine-tuning job. prepared_file: the training file after data_preparation."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    model: str
    fine_tuned_model: str | None
    organization_id: Literal["headrace"] = ORGANIZATION
    status: FinetuningStatus
    training_file: str
    validation_file: str | None
    hyperparameters: HyperparametersObject
    method: MethodObject
    result_files: list[str]
    prepared_file: str | None = None
    trained_tokens: int | None
    error: FinetuningError | None
    seed: int
    estimated_finish: int | None
    integrations: list[dict[str, Any]]
    metadata: dict[str, str] | None
    user_provided_suffix: str | None


class FinetuningEventObject(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a fine-tuning job. Each training step has an event of the type "metrics"."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: str
    message: str
    type: str
    data: dict[str, Any]


class CheckpointMetrics(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Metrics of a checkpoint. Losses are in nats; an accuracy is the fraction of trained tokens, or of preference
    pairs, that the model gets right. general_divergence: divergence from the base model on its own answers to everyday
    questions. general_text_loss: loss on plain text that is not in the file. Rewards and completion_tokens_mean are
    means, for reinforcement only."""

    step: int
    train_loss: float | None = None
    train_mean_token_accuracy: float | None = None
    valid_loss: float | None = None
    valid_mean_token_accuracy: float | None = None
    full_valid_loss: float | None = None
    full_valid_mean_token_accuracy: float | None = None
    general_divergence: float | None = None
    general_text_loss: float | None = None
    train_mean_reward: float | None = None
    full_valid_mean_reward: float | None = None
    completion_tokens_mean: float | None = None


class FinetuningCheckpointObject(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint of a fine-tuning job. Its adapter is served as the model fine_tuned_model_checkpoint."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: CheckpointMetrics


class FinetuningJobList(ListPage, frozen=True, kw_only=True):
    data: list[FinetuningJobObject]


class FinetuningEventList(ListPage, frozen=True, kw_only=True):
    data: list[FinetuningEventObject]


class FinetuningCheckpointList(ListPage, frozen=True, kw_only=True):
    data: list[FinetuningCheckpointObject]
