"""Figures of steps and measurements under the names that OpenAI's events and checkpoints have for them."""

from collections.abc import Mapping, Sequence

import msgspec

from engine.command_io.finetuning.results import StepResult
from engine.finetuning.state import Measured

_OF_STEPS = {  # by StepResult's name
    "train_loss": "train_loss",
    "train_accuracy": "train_mean_token_accuracy",
    "train_mean_reward": "train_mean_reward",
    "completion_tokens_mean": "completion_tokens_mean",
}
_OF_MEASUREMENTS = {  # by Measured's name
    "valid_loss": "full_valid_loss",
    "valid_accuracy": "full_valid_mean_token_accuracy",
    "valid_reward": "full_valid_mean_reward",
    "text_loss": "general_text_loss",
    "divergence": "general_divergence",
}


def means(results: Sequence[StepResult]) -> dict[str, float]:
    """Over those steps that have a value; what none has is left out."""
    columns = {
        name: [value for result in results if (value := getattr(result, name)) is not None] for name in _OF_STEPS
    }
    return _named({name: sum(column) / len(column) if column else None for name, column in columns.items()})


def figures(found: Measured) -> dict[str, float]:
    """What was not measured is left out."""
    return _named({name: getattr(found, name) for name in _OF_MEASUREMENTS})


def validated(result: StepResult, found: Measured) -> StepResult:
    """A step's results with what was measured after it."""
    return msgspec.structs.replace(
        result,
        valid_loss=found.valid_loss,
        valid_mean_token_accuracy=found.valid_accuracy,
        full_valid_mean_reward=found.valid_reward,
    )


def _named(values: Mapping[str, float | None]) -> dict[str, float]:
    names = {**_OF_STEPS, **_OF_MEASUREMENTS}
    return {names[name]: value for name, value in values.items() if value is not None}
