"""TrainingTask: the computation and measurements of a training method; the trainer does the rest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from engine.command_io.finetuning.results import ResultRow
from engine.finetuning.state import Measurements


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """The outcome of a step before the weights are updated. summary: the main number, for people. data: all numbers,
    for programs. warnings: for the user."""

    result: ResultRow
    summary: str
    data: Mapping[str, Any]
    warnings: tuple[str, ...] = ()


class TrainingTask(Protocol):
    """A training method. Its steps are functions of the adapter's values, the seed and the step, so that a job that was
    stopped computes the same."""

    @property
    def steps_per_epoch(self) -> int: ...

    def compute(self, step: int) -> StepOutcome:
        """Compute a step, counted from 0, and fill its gradients. Changes nothing else: it may be interrupted."""

    def measure(self) -> Measurements:
        """Measure the current adapter with all data that there is."""

    def conclude(self, results: Sequence[ResultRow]) -> str | None:
        """Return a warning about the whole job, if there is one. Called after the last step is computed.

        results: of all steps. Raises StartupError if the job has failed.
        """

    def trained_tokens(self, results: Sequence[ResultRow]) -> int:
        """Return the number of tokens that the steps of these results have learned from, each as often as it was seen,
        as OpenAI counts billed tokens."""
