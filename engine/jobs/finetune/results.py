"""The results file of a job: a row a step, in the columns of OpenAI's."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path

import msgspec

from engine.jobs.finetune.job import write_atomically

COLUMNS = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")


class StepResult(msgspec.Struct, frozen=True):
    """Losses are means over trained tokens in nats, or over pairs; accuracies, shares of them. Validation: after the
    last step of an epoch."""

    step: int
    train_loss: float
    train_accuracy: float
    valid_loss: float | None = None
    valid_mean_token_accuracy: float | None = None


def write_results(path: Path, results: Iterable[StepResult]) -> None:
    """Raises OSError."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for result in results:
        numbers = (getattr(result, column) for column in COLUMNS[1:])
        writer.writerow([result.step, *("" if number is None else f"{number:.5f}" for number in numbers)])
    write_atomically(path, text.getvalue().encode())
