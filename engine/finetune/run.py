"""run: a job's folder to an adapter: loads the model, prepares what is learned, and trains."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec
import tokenizers
import torch

from engine.errors import StartupError
from engine.finetune.curriculum import ranked
from engine.finetune.objective import Objective, PreferenceObjective, TokenObjective
from engine.finetune.order import BatchOrder
from engine.finetune.replay import replay_items
from engine.finetune.state import TrainingState
from engine.finetune.trainer import Outputs, Trainer, TrainingData
from engine.jobs.finetune.auto import Resolved, replayed, resolve
from engine.jobs.finetune.events import Event, EventLog
from engine.jobs.finetune.items import Passage, TrainingItem, read_rows
from engine.jobs.finetune.job import FinetuneJob, JobFolder, Method
from engine.jobs.finetune.loss_plot import sparkline
from engine.startup.load import load_options
from engine.startup.malloc import retain_freed_memory
from engine.startup.threads import compute_threads
from models.decoder import Decoder
from models.kernels.cpu.library import set_num_threads
from models.progress import ProgressReport
from models.sources.resolve import resolve_model
from models.system.memory import obtainable_memory_bytes
from models.training.adapter_file import load_pairs, save_adapter
from models.training.generate import generate
from models.training.load import TrainingModel, load_for_training
from models.training.lora import Lora, LoraShape

_NUM_GENERAL = 8  # answers of the base's own that are held out
_SAMPLE_TOKENS = 48
_DENSE_SHARE = 0.25  # of the free memory, that dequantized weights may take


def run(folder: JobFolder, progress: ProgressReport, tell: Callable[[Event], object] = lambda _: None) -> Path:
    """The folder of the finished adapter. tell: called with each event.

    Raises StartupError or ModelError for a job that cannot be done.
    """
    job = msgspec.json.decode(folder.job.read_bytes(), type=FinetuneJob)
    retain_freed_memory()
    set_num_threads(compute_threads(job.engine.threads))
    items, valid = read_rows(folder.train, TrainingItem), read_rows(folder.valid, TrainingItem)
    model = _load(job, progress)
    _serve_context(model.decoder, [*items, *valid])
    resolved = _resolved(job, folder, items)
    lora = Lora(model.decoder, model.names, LoraShape(resolved.rank, resolved.alpha, _targets(job)), job.seed)
    if job.start is not None:
        load_pairs(Path(job.start), lora)
    _keep_dense(lora)
    events = EventLog(folder.events, tell)
    wanted = resolved.num_replayed + (_NUM_GENERAL if resolved.num_replayed else 0)
    digest = _digest(folder)
    answers = replay_items(folder, digest, lora, model.decoder, job.end_ids, wanted, job.seed, progress)
    replay, general = answers[: resolved.num_replayed], answers[resolved.num_replayed :]
    learned = [*items, *replay]
    order = BatchOrder(
        len(learned),
        resolved.batch_size,
        resolved.num_steps,
        job.seed,
        ranked(job.hyperparameters.order, learned, model.decoder, progress),
        job.hyperparameters.pacing,
    )
    objective = _objective(job, resolved, model, [*learned, *valid])
    state = TrainingState(lora.values, lora.gradients, job.hyperparameters.weight_decay, digest)
    _begin(folder, job, resolved, state, events, len(items), lora)
    out = Path(job.out)

    def save(where: Path) -> None:
        save_adapter(where, lora, job.engine.model)

    outputs = Outputs(folder, events, progress, save, _sampler(folder, job, model, events), out / "checkpoints")
    data = TrainingData(learned, valid, general)
    trainer = Trainer(lora, objective, TokenObjective(model.decoder), data, order, resolved, state, outputs)
    trainer.run()
    save(out)
    losses = [result.train_loss for result in state.progress.results]
    events.add(f"Training loss {losses[0]:.3f} {sparkline(losses)} {losses[-1]:.3f}")
    events.add("The adapter is complete", adapter=str(out), trained_tokens=_trained_tokens(order, learned, state))
    events.close()
    return out


def _load(job: FinetuneJob, progress: ProgressReport) -> TrainingModel:
    files = resolve_model(job.engine.model, job.engine.revision, progress)
    return load_for_training(files, load_options(job.engine, "cpu"), progress)


def _serve_context(decoder: Decoder, items: list[TrainingItem]) -> None:
    longest, limit = max(item.longest for item in items), decoder.spec.max_position
    if longest > limit:
        raise StartupError(
            f"an example has {longest:,} tokens; this model takes {limit:,}; give --max-length {limit} or less"
        )
    decoder.serve_context(max(longest, min(2048, limit)))


def _resolved(job: FinetuneJob, folder: JobFolder, items: list[TrainingItem]) -> Resolved:
    has_prompts = bool(read_rows(folder.prompts, Passage))
    count = replayed(job.method, job.hyperparameters, len(items)) if has_prompts else 0
    return resolve(job.method, job.hyperparameters, len(items), count)


def _targets(job: FinetuneJob) -> tuple[str, ...]:
    return tuple(job.hyperparameters.target_modules)


def _keep_dense(lora: Lora) -> None:
    """Keep weights as gradients need them, where the memory is there: they are then dequantized once."""
    budget = _DENSE_SHARE * obtainable_memory_bytes(torch.device("cpu"))
    for weight in lora.weights:
        budget -= weight.dense_bytes
        if budget < 0:
            return
        weight.keeps_dense = True


def _objective(job: FinetuneJob, resolved: Resolved, model: TrainingModel, items: list[TrainingItem]) -> Objective:
    if job.method is not Method.DPO:
        return TokenObjective(model.decoder)
    objective = PreferenceObjective(model.decoder, resolved.beta)
    objective.remember(items)  # the adapter is as it begins: nothing has been learned, or gone on with
    return objective


def _digest(folder: JobFolder) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path in (folder.job, folder.train, folder.valid, folder.prompts):
        digest.update(path.read_bytes() if path.exists() else b"-")
    return digest.hexdigest()


def _begin(
    folder: JobFolder,
    job: FinetuneJob,
    resolved: Resolved,
    state: TrainingState,
    events: EventLog,
    num_items: int,
    lora: Lora,
) -> None:
    if folder.state.exists():
        if not state.load(folder.state):
            raise StartupError(
                f"{folder.path} has the state of another job: its examples or options have changed; give another "
                "--out, or remove it to begin again"
            )
        events.add(f"Going on after step {state.progress.step} of {resolved.num_steps}", step=state.progress.step)
        return
    events.add(
        f"{num_items} examples and {resolved.num_replayed} answers of the base's own; {resolved.n_epochs} epochs of "
        f"{resolved.steps_per_epoch} steps, batches of {resolved.batch_size}, learning rate "
        f"{resolved.learning_rate:.2g}, rank {resolved.rank}: {lora.values.numel():,} trainable numbers",
        n_epochs=resolved.n_epochs,
        batch_size=resolved.batch_size,
        learning_rate=resolved.learning_rate,
        lora_rank=resolved.rank,
        beta=resolved.beta if job.method is Method.DPO else None,
        total_steps=resolved.num_steps,
    )


def _sampler(folder: JobFolder, job: FinetuneJob, model: TrainingModel, events: EventLog) -> Callable[[int], None]:
    limit = model.decoder.spec.max_position
    rows = enumerate(read_rows(folder.samples, Passage))
    prompts = {number: prompt for number, prompt in rows if len(prompt.ids) < limit}  # the others cannot be answered
    tokenizer_json = folder.path / "tokenizer.json"
    tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer_json)) if tokenizer_json.exists() else None

    def sample(epoch: int) -> None:
        if not prompts:
            return
        asked = [prompt.ids for prompt in prompts.values()]
        max_tokens = min(_SAMPLE_TOKENS, limit - max(map(len, asked)))
        answers = generate(model.decoder, asked, job.end_ids, max_tokens)
        for number, answer in zip(prompts, answers, strict=True):
            text = "" if tokenizer is None else tokenizer.decode(answer)
            events.add(
                f"Sample {number + 1}: {' '.join(text.split())}",
                epoch=epoch,
                sample=number,
                token_ids=answer,
                text=text,
            )

    return sample


def _trained_tokens(order: BatchOrder, items: list[TrainingItem], state: TrainingState) -> int:
    """Tokens of all examples that were seen, as OpenAI counts what is paid for."""
    return sum(items[index].num_tokens for step in range(state.progress.step) for index in order.batch(step))
