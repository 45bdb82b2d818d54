"""resolve_as_begun: the hyperparameters of a job, as they were when it began."""

import dataclasses
from typing import Any

import msgspec

from engine.command_io.finetuning.auto import Resolved, resolve
from engine.command_io.finetuning.events import read_events
from engine.command_io.finetuning.job import FinetuningJob, JobFolder

_CHOSEN = ("n_epochs", "batch_size", "learning_rate", "lora_rank")


def resolve_as_begun(folder: JobFolder, job: FinetuningJob, num_items: int, num_questions: int) -> Resolved:
    """As `resolve`, but a job that goes on keeps what its first event told: a later version of headrace may choose
    otherwise, and half of a schedule would be followed by half of another. Raises OSError."""
    begun = _begun(folder)
    if begun is None:
        return resolve(job.method, job.hyperparameters, num_items, num_questions)
    given = msgspec.structs.replace(
        job.hyperparameters,
        n_epochs=begun["n_epochs"],
        batch_size=begun["batch_size"],
        lora_rank=begun["lora_rank"],
    )
    resolved = resolve(job.method, given, num_items, num_questions)
    return dataclasses.replace(resolved, learning_rate=begun["learning_rate"])


def _begun(folder: JobFolder) -> dict[str, Any] | None:
    """None if the job has not begun, or its events are gone."""
    if not (folder.state.exists() and folder.events.exists()):
        return None
    told = (event.data for event in read_events(folder.events))
    return next((data for data in reversed(list(told)) if all(name in data for name in _CHOSEN)), None)
