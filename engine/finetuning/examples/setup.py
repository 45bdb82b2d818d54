"""ExampleSetup: prepares a fine-tuning job that trains on the examples of a file."""

from collections.abc import Mapping
from typing import Any

from engine.command_io.finetuning.auto import ResolvedHyperparameters
from engine.command_io.finetuning.items import Passage, TrainingItem, read_rows
from engine.command_io.finetuning.job import FinetuningJob, JobFolder, TrainingMethod
from engine.command_io.finetuning.results import LOSS
from engine.errors import StartupError
from engine.finetuning.examples.task import ExampleTask, TrainingData
from engine.finetuning.loss.objective import Objective, PreferenceObjective, TokenObjective, evaluate
from engine.finetuning.memory import check_memory, most_tokens
from engine.finetuning.samples import load_job_tokenizer
from engine.finetuning.setup import TaskContext
from engine.quality.eval_chunks import CHUNK_LEN, builtin_text
from engine.wording import counted
from models.decoder import Decoder
from models.training.lora import Lora


class ExampleSetup:
    curve = LOSS

    def __init__(self, folder: JobFolder, job: FinetuningJob) -> None:
        self._folder = folder
        self._job = job
        self._items, self._valid = read_rows(folder.train, TrainingItem), read_rows(folder.valid, TrainingItem)

    @property
    def num_items(self) -> int:
        return len(self._items)

    @property
    def num_answers(self) -> int:
        answers = ((each.ids, *each.trained[-1]) for item in self._items for each in item.passages[:1] if each.trained)
        return len({tuple(ids[first:last]) for ids, first, last in answers})

    @property
    def longest(self) -> int:
        return max(item.longest for item in (*self._items, *self._valid))

    def check_length(self, limit: int) -> None:
        if self.longest > limit:
            raise StartupError(
                f"an example has {self.longest:,} tokens; this model takes {limit:,}; give --max-length {limit} or less"
            )

    def check_memory(self, decoder: Decoder, lora: Lora, resolved: ResolvedHyperparameters) -> None:
        num_tokens = most_tokens([item.num_tokens for item in self._items], resolved.batch_size)
        check_memory(decoder, lora, num_tokens, keeps_best=bool(self._valid))

    def describe(self, resolved: ResolvedHyperparameters) -> tuple[str, Mapping[str, Any]]:
        is_dpo = self._job.method is TrainingMethod.DPO
        own = {"beta": resolved.beta, "rpo_alpha": resolved.rpo_alpha} if is_dpo else {"beta": None, "rpo_alpha": None}
        return counted(self.num_items, "example"), own

    def make_task(self, context: TaskContext) -> ExampleTask:
        decoder = context.decoder
        is_text = self._job.method is TrainingMethod.PRETRAINING
        text = general_text(self._folder, decoder.spec.max_position) if is_text else []

        def difficulty(item: TrainingItem) -> float:
            """Return the loss of an example before training. Rating all examples takes about a third of an epoch."""
            return evaluate(TokenObjective(decoder), [TrainingItem(item.passages[:1])], decoder).loss

        orders = context.orders(self._items, difficulty, self._job.seed)
        objective = self._objective(context)
        return ExampleTask(context, objective, TrainingData(self._items, self._valid, text), orders)

    def _objective(self, context: TaskContext) -> Objective:
        if self._job.method is not TrainingMethod.DPO:
            return TokenObjective(context.decoder)
        objective = PreferenceObjective(context.decoder, context.resolved.beta, context.resolved.rpo_alpha)
        objective.remember([*self._items, *self._valid])  # before the first step, or the state of an earlier run
        return objective


def general_text(folder: JobFolder, max_position: int) -> list[TrainingItem]:
    """Return the built-in text, in separate sequences; empty if the job has no tokenizer.

    Pretraining measures forgetting on its 2,500 tokens of prose, code, tables and dialogue.
    """
    tokenizer = load_job_tokenizer(folder)
    if tokenizer is None:
        return []
    prefix = tokenizer.encode("").ids
    ids = tokenizer.encode(builtin_text(), add_special_tokens=False).ids
    size = max(1, min(CHUNK_LEN, max_position) - len(prefix))
    chunks = ([*prefix, *ids[start : start + size]] for start in range(0, len(ids), size))
    return [TrainingItem([Passage(chunk, [(1, len(chunk))])]) for chunk in chunks if len(chunk) > 1]
