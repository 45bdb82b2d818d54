"""job_object, event_object, checkpoint_object: parts of a fine-tuning job as the API's objects."""

import re
from typing import Any

import msgspec

from engine.command_io.finetuning.graders.parsing import with_names
from engine.command_io.finetuning.job import Hyperparameters, TrainingMethod
from server.finetuning.jobs.record import FinetuningCheckpoint, FinetuningRecord, checkpoint_id, event_id
from server.jobs.table import NumberedEvent
from server.schemas.finetuning_answers import (
    CheckpointMetrics,
    FinetuningCheckpointObject,
    FinetuningEventObject,
    FinetuningJobObject,
    HyperparametersObject,
    MethodObject,
    MethodSettings,
)

_FLAG = re.compile(r"--([a-z][a-z-]*)")
_FOLDERS = re.compile(r"(?<![\w/:.~-])~?/(?:[^\s/'\",;:]+/)+(?=[^\s/])")  # before the last name of a path

_OPENAIS = {"n_epochs", "batch_size", "learning_rate_multiplier", "beta", "lora_rank"}  # hyperparameters
_INTERNAL = {"adapter", "checkpoint"}  # data of an event that contains paths


def job_object(record: FinetuningRecord) -> FinetuningJobObject:
    settings = _hyperparameters(record)
    shown: dict[str, Any] = {
        "fine_tuned_model": record.name if record.has_adapter else None,
        "hyperparameters": HyperparametersObject(
            n_epochs=settings.n_epochs,
            batch_size=settings.batch_size,
            learning_rate_multiplier=settings.learning_rate_multiplier,
        ),
        "method": MethodObject(type=record.method.value, **{record.method.value: _settings(record, settings)}),
        "integrations": [],
        "user_provided_suffix": record.suffix,
    }
    return msgspec.convert({**msgspec.structs.asdict(record), **shown}, FinetuningJobObject)


def _settings(record: FinetuningRecord, hyperparameters: HyperparametersObject) -> MethodSettings:
    if record.grader is None:
        return MethodSettings(hyperparameters=hyperparameters)
    return MethodSettings(grader=with_names(record.grader), hyperparameters=hyperparameters)


def _hyperparameters(record: FinetuningRecord) -> HyperparametersObject:
    """Return the hyperparameters as resolved by the trainer, or else as requested."""
    given, resolved = record.hyperparameters, record.resolved
    multiplier = given.learning_rate_multiplier
    if multiplier is None and resolved is not None:
        multiplier = 1.0
    beta: Any = None
    if record.method is TrainingMethod.DPO:
        beta = given.beta if resolved is None else resolved.beta
        beta = "auto" if beta is None else beta
    return HyperparametersObject(
        n_epochs=(given.n_epochs or "auto") if resolved is None else resolved.n_epochs,
        batch_size=(given.batch_size or "auto") if resolved is None else resolved.batch_size,
        learning_rate_multiplier="auto" if multiplier is None else multiplier,
        beta=beta,
        lora_rank=given.lora_rank if resolved is None else resolved.lora_rank,
        **_further(given),
    )


def _further(given: Hyperparameters) -> dict[str, Any]:
    """Return the hyperparameters beyond OpenAI's that differ from their defaults."""
    plain, names = Hyperparameters(), Hyperparameters.__struct_fields__
    changed = {name: value for name in names if (value := getattr(given, name)) != getattr(plain, name)}
    further = {name: value for name, value in changed.items() if name not in _OPENAIS}
    if given.data_preparation is not None:
        further["data_preparation"] = msgspec.to_builtins(given.data_preparation)
    return further


def event_object(job_id: str, numbered: NumberedEvent) -> FinetuningEventObject:
    event = numbered.event
    return FinetuningEventObject(
        id=event_id(job_id, numbered.number),
        created_at=int(event.created_at),
        level=event.level,
        message=event.message,
        type=event.kind,
        data={name: value for name, value in event.data.items() if name not in _INTERNAL},
    )


def checkpoint_object(record: FinetuningRecord, checkpoint: FinetuningCheckpoint) -> FinetuningCheckpointObject:
    known = CheckpointMetrics.__struct_fields__
    metrics = {name: value for name, value in checkpoint.metrics.items() if name in known}
    for name in ("valid_loss", "valid_mean_token_accuracy"):
        if name not in metrics and (whole := metrics.get(f"full_{name}")) is not None:
            metrics[name] = whole
    return FinetuningCheckpointObject(
        id=checkpoint_id(record.id, checkpoint.step),
        created_at=checkpoint.created_at,
        fine_tuned_model_checkpoint=record.checkpoint_name(checkpoint.step),
        fine_tuning_job_id=record.id,
        step_number=checkpoint.step,
        metrics=CheckpointMetrics(**{**metrics, "step": checkpoint.step}),
    )


def for_clients(message: str) -> str:
    """Reword a trainer's message, written for the command line, for the API: flags become request fields, and paths
    lose their folders, which are internal."""
    return _FOLDERS.sub("", _FLAG.sub(_field, message))


def _field(flag: re.Match[str]) -> str:
    name = flag[1].replace("-", "_")
    return name if name in Hyperparameters.__struct_fields__ else flag[0]
