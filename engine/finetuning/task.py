"""TrainingTask: the part of the training loop that depends on the method: the gradients and the evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from engine.command_io.finetuning.results import ResultRow
from engine.finetuning.state import Measurements


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """The outcome of a step, before the optimizer's update. summary: the main metric, for the log line. data: all
    metrics, for the event. warnings: for the user."""

    result: ResultRow
    summary: str
    data: Mapping[str, Any]
    warnings: tuple[str, ...] = ()


class TrainingTask(Protocol):
    """A training method. Each step is a function of the adapter's weights, the seed and the step number, so that a
    restarted job repeats it exactly."""

    @property
    def steps_per_epoch(self) -> int: ...

    def compute(self, step: int) -> StepOutcome:
        """Compute the gradients of a step, counted from 0. Changes no other state, so that it may be interrupted."""

    def measure(self) -> Measurements:
        """Evaluate the current adapter on the validation file and on the data that detects forgetting."""

    def conclude(self, results: Sequence[ResultRow]) -> str | None:
        """Return a warning about the job as a whole, or None. Called once, after the last step's gradients are
        computed.

        results: one row for each step. Raises StartupError if the job as a whole has failed.
        """

    def trained_tokens(self, results: Sequence[ResultRow]) -> int:
        """Return the number of tokens trained on in these steps, counting repetitions, as OpenAI counts billed
        tokens."""
