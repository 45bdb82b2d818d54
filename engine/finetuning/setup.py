"""TaskSetup: a method's part in making a job ready to train."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from engine.command_io.finetuning.auto import ResolvedHyperparameters
from engine.command_io.finetuning.curve import Curve
from engine.finetuning.loss.anchor import Anchor
from engine.finetuning.replay import ReplayedAnswers
from engine.finetuning.task import TrainingTask
from models.decoder import Decoder
from models.progress import ProgressReport
from models.training.lora import Lora


@dataclass(frozen=True, slots=True)
class TaskContext:
    """What every task is made of. lora: as training begins, also in a job that goes on later. anchor: that remembers
    the answers."""

    decoder: Decoder
    lora: Lora
    resolved: ResolvedHyperparameters
    answers: ReplayedAnswers
    anchor: Anchor
    progress: ProgressReport


class TaskSetup(Protocol):
    """Made from a job's folder, before the model is loaded. curve: what the results are of."""

    @property
    def curve(self) -> Curve: ...

    @property
    def num_items(self) -> int:
        """Lines of the file that are trained on."""

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""

    def check_length(self, limit: int) -> None:
        """limit: tokens that the model takes. Raises StartupError."""

    def check_memory(self, decoder: Decoder, lora: Lora, resolved: ResolvedHyperparameters) -> None:
        """Raises NotEnoughMemory."""

    def describe(self, resolved: ResolvedHyperparameters) -> tuple[str, Mapping[str, Any]]:
        """What a step takes of the file, for people; and the method's own hyperparameters, for programs."""

    def make_task(self, setting: TaskContext) -> TrainingTask:
        """Raises StartupError for what the model cannot do."""
