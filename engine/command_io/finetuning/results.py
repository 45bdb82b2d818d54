"""The results of a job: one row per step in OpenAI's columns, and the columns to plot."""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from engine.command_io.finetuning.job import write_atomically


class ResultRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """The results of a step. Fields that the training method does not have are None, and validation results in most
    steps.

    Losses are means over trained tokens, in nats, or over preference pairs; accuracies are shares of tokens or pairs.
    Rewards and completion_tokens_mean are means over samples; mean_unresponsive_rewards is the share of samples that
    were cut off. has_signal: whether answers to one prompt had different rewards.
    """

    step: int
    train_loss: float | None = None
    train_accuracy: float | None = None
    valid_loss: float | None = None
    valid_mean_token_accuracy: float | None = None
    train_mean_reward: float | None = None
    full_valid_mean_reward: float | None = None
    completion_tokens_mean: float | None = None
    mean_unresponsive_rewards: float | None = None
    has_signal: bool | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """The columns of a method's results. columns: fields of ResultRow to write after `step` (OpenAI's names). train,
    valid: the two columns to plot. name: the quantity that they measure."""

    name: str
    columns: tuple[str, ...]
    train: str
    valid: str


LOSS = Curve(
    "loss",
    ("train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy"),
    train="train_loss",
    valid="valid_loss",
)
REWARD = Curve(
    "reward",
    ("train_mean_reward", "full_valid_mean_reward", "completion_tokens_mean", "mean_unresponsive_rewards"),
    train="train_mean_reward",
    valid="full_valid_mean_reward",
)


def write_result_rows(path: Path, results: Iterable[ResultRow], curve: Curve) -> None:
    """Write the results file, atomically. Raises OSError."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("step", *curve.columns))
    for result in results:
        numbers = (getattr(result, column) for column in curve.columns)
        writer.writerow([result.step, *("" if number is None else f"{number:.5f}" for number in numbers)])
    write_atomically(path, text.getvalue().encode())
