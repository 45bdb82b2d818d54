"""train: loads the model of a job's folder, prepares the task, and trains the adapter."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from engine.child_processes.allocator import retain_freed_memory
from engine.command_io.finetuning.auto import (
    ResolvedHyperparameters,
    epochs_between_checkpoints,
    resolve_hyperparameters,
)
from engine.command_io.finetuning.events import JobEvent, JobEventLog, parse_events
from engine.command_io.finetuning.items import Passage, TrainingItem, read_rows
from engine.command_io.finetuning.job import FinetuningJob, Hyperparameters, JobFolder, TrainingMethod
from engine.command_io.finetuning.plot import sparkline
from engine.command_io.finetuning.results import Curve, ResultRow
from engine.finetuning.examples.setup import ExampleSetup
from engine.finetuning.loss.anchor import Anchor, AnchorWeights
from engine.finetuning.origin import another_job, check_origin, job_digest, save_origin
from engine.finetuning.recall import report_recall
from engine.finetuning.reinforcement.setup import ReinforcementSetup
from engine.finetuning.replay import num_questions, replayed_answers
from engine.finetuning.samples import SampleWriter, load_job_tokenizer
from engine.finetuning.setup import TaskContext, TaskSetup
from engine.finetuning.state import TrainingState
from engine.finetuning.trainer import Outputs, Trainer
from engine.startup.early import compute_threads
from engine.startup.load import load_options
from engine.wording import counted
from models.kernels.cpu.library import set_num_threads
from models.progress import ProgressReport
from models.sources.resolve import resolve_model
from models.system.cores import allowed_cpus
from models.training.adapter_file import load_pairs, save_adapter
from models.training.load import load_for_training
from models.training.lora import Lora, LoraShape

# With a mean of 4 alone, SmolLM2 began everyday answers in the file's manner, and then went another way. With
# preferences, the first tokens are free: a preferred style begins there.
_USUAL_ANCHOR = AnchorWeights(mean=4.0, first=0.0)
_ANCHORS = {TrainingMethod.SUPERVISED: AnchorWeights(mean=8.0, first=6.0)}

_CHOSEN = ("n_epochs", "batch_size", "learning_rate", "lora_rank")  # hyperparameters that the first event has


def train(
    folder: JobFolder, progress: ProgressReport, on_event: Callable[[JobEvent], object] = lambda _: None
) -> Path | None:
    """Train the job of a folder; return the folder of the finished adapter, or None for a job that is trained only for
    its loss. on_event: called with each event.

    Raises StartupError or ModelError if the job cannot run.
    """
    job = msgspec.json.decode(folder.job.read_bytes(), type=FinetuningJob)
    retain_freed_memory()
    events = JobEventLog(folder.events, on_event)
    set_num_threads(_num_threads(job.engine.threads, events))
    digest = job_digest(folder)
    check_origin(folder, digest)
    setup = _setup(folder, job)
    files = resolve_model(job.engine.model, job.engine.revision, progress)
    model = load_for_training(files, load_options(job.engine, "cpu"), progress)
    decoder = model.decoder
    limit = decoder.spec.max_position
    setup.check_length(limit)
    decoder.serve_context(max(setup.longest, min(2048, limit)))
    questions = num_questions(read_rows(folder.prompts, Passage))
    resolved = _resolve(folder, job, setup, questions, decoder.spec.hidden_size)
    shape = LoraShape(resolved.rank, resolved.alpha, tuple(job.hyperparameters.target_modules))
    lora = Lora(decoder, model.names, shape, job.seed)
    if job.start is not None:
        load_pairs(folder.path / job.start, lora)
    setup.check_memory(decoder, lora, resolved)
    answers = replayed_answers(folder, digest, lora, decoder, job.end_ids, resolved.num_replayed, job.seed, progress)
    anchor = Anchor(decoder, lora, _ANCHORS.get(job.method, _USUAL_ANCHOR))
    anchor.remember([*answers.pool, *answers.held_out])
    task = setup.make_task(TaskContext(decoder, lora, resolved, answers, anchor, progress))
    state = TrainingState(lora.values, lora.gradients, job.hyperparameters.weight_decay, digest)
    _begin(folder, setup, resolved, state, events)
    out = folder.out

    def save(where: Path) -> None:
        save_adapter(where, lora, job.engine.model)

    sampler = SampleWriter(folder, job, decoder, events)
    outputs = Outputs(folder, events, progress, setup.curve, save, sampler.sample)
    Trainer(task, resolved, state, outputs).run()
    save(out)
    _conclude(setup.curve, state.progress.results, events)
    if job.method is TrainingMethod.SUPERVISED and job.probe is None:
        items, tokenizer = read_rows(folder.train, TrainingItem), load_job_tokenizer(folder)
        report_recall(items, decoder, lora, job.end_ids, resolved, tokenizer, events, progress)
    if job.probe is None:
        num_trained = task.trained_tokens(state.progress.results)
        events.add("The adapter is complete", adapter=str(out), trained_tokens=num_trained)
    events.close()
    return out if job.probe is None else None


def _setup(folder: JobFolder, job: FinetuningJob) -> TaskSetup:
    return ReinforcementSetup(folder, job) if job.method is TrainingMethod.REINFORCEMENT else ExampleSetup(folder, job)


def _num_threads(wanted: int | None, events: JobEventLog) -> int:
    """Return the job's number of threads, capped at this machine's CPUs: the job may come from a larger machine."""
    num_cpus = len(allowed_cpus())
    if wanted is not None and wanted > num_cpus:
        events.add(
            f"The job was made for {wanted} threads, and this machine runs {num_cpus} at a time: training continues "
            f"with {num_cpus}, and the last bits of the adapter may differ",
            level="warn",
        )
        return num_cpus
    return compute_threads(wanted)


def _resolve(
    folder: JobFolder, job: FinetuningJob, setup: TaskSetup, num_questions: int, width: int
) -> ResolvedHyperparameters:
    """Choose the job's hyperparameters; for a job that continues, take them from its events.

    Another version of headrace might choose other values, and the learning rate schedule must not change midway. Raises
    OSError.
    """

    def resolve(given: Hyperparameters) -> ResolvedHyperparameters:
        resolved = resolve_hyperparameters(
            job.method, given, setup.num_items, num_questions, setup.num_answers, width=width
        )
        return resolved if job.probe is None else dataclasses.replace(resolved, learning_rate=job.probe.learning_rate)

    chosen = _chosen_before(folder)
    if chosen is None:
        return resolve(job.hyperparameters)
    given = msgspec.structs.replace(
        job.hyperparameters,
        n_epochs=chosen["n_epochs"],
        batch_size=chosen["batch_size"],
        lora_rank=chosen["lora_rank"],
    )
    resolved = resolve(given)
    between = epochs_between_checkpoints(job.hyperparameters, resolved.n_epochs)
    return dataclasses.replace(resolved, learning_rate=chosen["learning_rate"], checkpoint_epochs=between)


def _chosen_before(folder: JobFolder) -> dict[str, Any] | None:
    """Return the hyperparameters logged by an earlier run; None without a saved state or such an event."""
    if not (folder.state.exists() and folder.events.exists()):
        return None
    found = [event.data for event in parse_events(folder.events.read_bytes())]
    return next((data for data in reversed(found) if all(name in data for name in _CHOSEN)), None)


def _begin(
    folder: JobFolder, setup: TaskSetup, resolved: ResolvedHyperparameters, state: TrainingState, events: JobEventLog
) -> None:
    if folder.state.exists():
        if not state.load(folder.state):
            raise another_job(folder)
        events.add(f"Continuing after step {state.progress.step} of {resolved.num_steps}", step=state.progress.step)
        return
    save_origin(folder)
    description, own = setup.describe(resolved)
    events.add(
        f"{description}; {counted(resolved.n_epochs, 'epoch')} of {counted(resolved.steps_per_epoch, 'step')}. A step "
        f"learns from {resolved.batch_size} of them and, so that other answers stay, {resolved.replayed_per_step:g} of "
        f"the model's own; learning rate {resolved.learning_rate:.2g}, rank {resolved.rank}: "
        f"{state.values.numel():,} trained numbers",
        n_epochs=resolved.n_epochs,
        batch_size=resolved.batch_size,
        learning_rate=resolved.learning_rate,
        lora_rank=resolved.rank,
        **own,
        total_steps=resolved.num_steps,
    )


def _conclude(curve: Curve, results: Sequence[ResultRow], events: JobEventLog) -> None:
    values = [value for result in results if (value := getattr(result, curve.train)) is not None]
    if values:
        events.add(f"Training {curve.name} {values[0]:.3f} {sparkline(values)} {values[-1]:.3f}")
