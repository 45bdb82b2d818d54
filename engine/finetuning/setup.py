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
    """The parts that every task is made of. anchor: remembers the base's outputs for `answers`."""

    decoder: Decoder
    lora: Lora
    resolved: ResolvedHyperparameters
    answers: ReplayedAnswers
    anchor: Anchor
    progress: ProgressReport

    def orders(
        self, items: Sequence[Item], difficulty: Callable[[Item], float], seed: int
    ) -> tuple[BatchOrder, ReplayOrder]:
        """Return the order of the file's items and of the replayed answers. difficulty: see `ranked`."""
        resolved, given = self.resolved, self.resolved.given
        ranks = ranked(given.order, items, difficulty, self.progress)
        order = BatchOrder(len(items), resolved.batch_size, resolved.num_steps, seed, ranks, given.pacing)
        return order, ReplayOrder(len(self.answers.pool), resolved.replayed_per_step, seed)


class TaskSetup(Protocol):
    """A method's preparation, made from a job's folder before the model is loaded. curve: see Curve."""

    @property
    def curve(self) -> Curve: ...

    @property
    def num_items(self) -> int:
        """Number of lines of the training file."""

    @property
    def longest(self) -> int:
        """Number of tokens of the longest sequence."""

    def check_length(self, limit: int) -> None:
        """Raise StartupError if a sequence has more than `limit` tokens, the model's context."""

    def check_memory(self, decoder: Decoder, lora: Lora, resolved: ResolvedHyperparameters) -> None:
        """Raise NotEnoughMemory if training needs more than is free."""

    def describe(self, resolved: ResolvedHyperparameters) -> tuple[str, Mapping[str, Any]]:
        """Describe the data for people, and return the method's own hyperparameters for programs."""

    def make_task(self, context: TaskContext) -> TrainingTask:
        """Make the task. Raises StartupError if the model cannot do it."""
