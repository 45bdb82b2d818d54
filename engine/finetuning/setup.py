"""TaskSetup: the part of a job's preparation that depends on the training method."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from engine.command_io.finetuning.auto import ResolvedHyperparameters
from engine.command_io.finetuning.results import Curve
from engine.finetuning.loss.anchor import Anchor
from engine.finetuning.order import BatchOrder, Item, ReplayOrder, ranked
from engine.finetuning.replay import ReplayedAnswers
from engine.finetuning.task import TrainingTask
from models.decoder import Decoder
from models.progress import ProgressReport
from models.training.lora import Lora


@dataclass(frozen=True, slots=True)
class TaskContext:
    """Inputs that every TrainingTask is built from. anchor: has the base model's hidden states for `answers`."""

    decoder: Decoder
    lora: Lora
    resolved: ResolvedHyperparameters
    answers: ReplayedAnswers
    anchor: Anchor
    progress: ProgressReport

    def orders(
        self, items: Sequence[Item], difficulty: Callable[[Item], float], seed: int
    ) -> tuple[BatchOrder, ReplayOrder]:
        """Return the schedules of the training items and of the replayed answers. difficulty: rates an item."""
        resolved, given = self.resolved, self.resolved.given
        ranks = ranked(given.order, items, difficulty, self.progress)
        order = BatchOrder(len(items), resolved.batch_size, resolved.num_steps, seed, ranks, given.pacing)
        return order, ReplayOrder(len(self.answers.pool), resolved.replayed_per_step, seed)


class TaskSetup(Protocol):
    """Preparation of a job before the model is loaded, by training method. curve: the columns of the results."""

    @property
    def curve(self) -> Curve: ...

    @property
    def num_items(self) -> int:
        """Number of examples in the training file."""

    @property
    def num_answers(self) -> int:
        """Number of different answers in the training file; 0 if it has none."""

    @property
    def longest(self) -> int:
        """Number of tokens in the longest sequence of the training data."""

    def check_length(self, limit: int) -> None:
        """Raise StartupError if a sequence exceeds the model's context of `limit` tokens."""

    def check_memory(self, decoder: Decoder, lora: Lora, resolved: ResolvedHyperparameters) -> None:
        """Raise NotEnoughMemory if training needs more memory than is free."""

    def describe(self, resolved: ResolvedHyperparameters) -> tuple[str, Mapping[str, Any]]:
        """Return a line that describes the data, and the method's own hyperparameters for the event's `data`."""

    def make_task(self, context: TaskContext) -> TrainingTask:
        """Build the task. Raises StartupError if the model does not support the method."""
