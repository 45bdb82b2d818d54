"""ExampleTask: trains on the examples of a file in a fixed order (supervised, DPO, pretraining)."""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.command_io.finetuning.items import TrainingItem
from engine.command_io.finetuning.results import ResultRow
from engine.finetuning.loss.objective import Objective, add_gradients, evaluate
from engine.finetuning.order import BatchOrder, ReplayOrder
from engine.finetuning.setup import TaskContext
from engine.finetuning.state import Measurements
from engine.finetuning.task import StepOutcome


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The training, validation and general-text items of a job. text: its perplexity measures forgetting."""

    items: Sequence[TrainingItem]
    valid: Sequence[TrainingItem]
    text: Sequence[TrainingItem]


class ExampleTask:
    def __init__(
        self, context: TaskContext, objective: Objective, data: TrainingData, orders: tuple[BatchOrder, ReplayOrder]
    ) -> None:
        """objective: must have its reference values already. orders: schedules of examples and of replayed answers."""
        self._context = context
        self._objective = objective
        self._data = data
        self._order, self._replay_order = orders

    @property
    def steps_per_epoch(self) -> int:
        return self._order.steps_per_epoch

    def compute(self, step: int) -> StepOutcome:
        items = [self._data.items[index] for index in self._order.batch(step)]
        context = self._context
        replayed = [context.answers.pool[index] for index in self._replay_order.batch(step)]
        score = add_gradients(self._objective, items, context.decoder, context.lora, context.anchor, replayed)
        data = {
            "train_loss": score.loss,
            "train_mean_token_accuracy": score.accuracy,
            "divergence": score.divergence,
            "tokens": sum(item.num_tokens for item in (*items, *replayed)),
        }
        result = ResultRow(step + 1, score.loss, score.accuracy)
        return StepOutcome(result, f"training loss={score.loss:.4f}", data)

    def measure(self) -> Measurements:
        data, decoder, held_out = self._data, self._context.decoder, self._context.answers.held_out
        valid = evaluate(self._objective, data.valid, decoder) if data.valid else None
        return Measurements(
            valid_loss=None if valid is None else valid.loss,
            valid_accuracy=None if valid is None else valid.accuracy,
            text_loss=evaluate(self._objective, data.text, decoder).loss if data.text else None,
            divergence=self._context.anchor.measure(held_out) if held_out else None,
        )

    def conclude(self, results: Sequence[ResultRow]) -> str | None:  # noqa: ARG002
        return None

    def trained_tokens(self, results: Sequence[ResultRow]) -> int:
        return self._order.sum_of([item.num_tokens for item in self._data.items], len(results))
