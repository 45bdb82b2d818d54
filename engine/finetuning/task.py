"""TrainingTask: what a method computes in a step, and measures; the trainer does the rest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from engine.command_io.finetuning.results import ResultRow
from engine.finetuning.state import Measurements


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """Of a step, before the weights are updated. summary: its figure for people. data: more figures, for programs.
    warnings: what somebody should know."""

    result: ResultRow
    summary: str
    data: Mapping[str, Any]
    warnings: tuple[str, ...] = ()


class TrainingTask(Protocol):
    """A function of the adapter's values, the seed and the step, so that a job that was stopped computes the same."""

    @property
    def steps_per_epoch(self) -> int: ...

    def compute(self, step: int) -> StepOutcome:
        """Fill the gradients of a step, counted from 0. Changes nothing else: it may be interrupted."""

    def measure(self) -> Measurements:
        """The adapter as it is, by all that there is to measure it by."""

    def conclude(self, results: Sequence[ResultRow]) -> str | None:
        """A warning about the whole job, of which these are all results. Called after the last step is computed.

        Raises StartupError if the job has failed.
        """

    def trained_tokens(self, results: Sequence[ResultRow]) -> int:
        """Tokens that the steps of these results have learned from, each as often as it was seen, as OpenAI counts what
        is paid for."""
