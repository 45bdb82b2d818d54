"""Conclusions from measurements: warnings, the final summary line, and metrics under OpenAI's names."""

import math
from collections.abc import Mapping, Sequence

import msgspec

from engine.command_io.finetuning.results import ResultRow
from engine.finetuning.state import Measurements, TrainingProgress

# Divergence from the base on its own answers, in nats per token; beyond, answers to other questions often change.
_FAR = 0.06
_OF_STEPS = {  # by ResultRow's name
    "train_loss": "train_loss",
    "train_accuracy": "train_mean_token_accuracy",
    "train_mean_reward": "train_mean_reward",
    "completion_tokens_mean": "completion_tokens_mean",
}
_OF_MEASUREMENTS = {  # by Measurements' name
    "valid_loss": "full_valid_loss",
    "valid_accuracy": "full_valid_mean_token_accuracy",
    "valid_reward": "full_valid_mean_reward",
    "text_loss": "general_text_loss",
    "divergence": "general_divergence",
}
_WORDS = {  # by OpenAI's name
    "train_loss": "training loss",
    "full_valid_loss": "validation loss",
    "train_mean_reward": "mean reward",
    "full_valid_mean_reward": "mean reward on the validation file",
    "completion_tokens_mean": "tokens of an answer",
    "general_text_loss": "loss on general text",
    "general_divergence": "change of other answers",
}


def warnings(progress: TrainingProgress, found: Measurements) -> list[str]:
    """Return warnings about the latest measurements `found`. progress: the job's progress before `found`."""
    said = []
    if found.valid_loss is not None:
        if progress.best_loss is not None and found.valid_loss >= progress.best_loss:
            said.append(
                f"The validation loss was lower after step {progress.best_step} ({progress.best_loss:.4f}) than now "
                f"({found.valid_loss:.4f}): the adapter may be learning the examples by heart; fewer epochs may do "
                "better"
            )
        before = None if progress.before is None else progress.before.valid_loss
        if before is not None and found.valid_loss >= before:
            said.append(
                f"The validation loss was lower before training ({before:.4f}) than now ({found.valid_loss:.4f}): the "
                "adapter does worse than the base there; a lower learning rate or examples more like those may help"
            )
    if found.valid_reward is not None:  # means of few samples go up and down: compare with the first alone
        before = None if progress.before is None else progress.before.valid_reward
        if before is not None and found.valid_reward < before:
            said.append(
                f"The mean reward on the validation file was higher before training ({before:.4f}) than now "
                f"({found.valid_reward:.4f}): a lower learning rate, more samples of each prompt, or a grader "
                "that tells answers apart better may help"
            )
    if found.divergence is not None and found.divergence > _FAR:
        said.append(
            f"{_change(found.divergence)}: they may get worse; a lower --learning-rate-multiplier, fewer epochs or "
            "more --replay keeps them"
        )
    return said


def _change(divergence: float) -> str:
    how = "much" if divergence > _FAR else "little"
    return f"Answers to other questions changed {how} ({divergence:.3f}; below {_FAR:g} is fine)"


def stopped_early(progress: TrainingProgress) -> str:
    """Return the message that training stopped early, naming the best step and its result."""
    if progress.best_reward is not None:
        best = f"a mean reward of {progress.best_reward:.4f} on the validation file"
    else:
        best = f"a validation loss of {progress.best_loss:.4f}"
    return f"Stopped early; the adapter is that of step {progress.best_step}, with {best}"


def before_and_after(before: Measurements, after: Measurements) -> str | None:
    """Return sentences that compare the measurements before and after training; None if there is nothing to compare."""
    pairs = (
        ("perplexity on the validation file" if after.text_loss is not None else "validation loss", "valid_loss"),
        ("perplexity on general text", "text_loss"),
        ("mean reward on the validation file", "valid_reward"),
    )
    shown = []
    for name, attribute in pairs:
        first, last = getattr(before, attribute), getattr(after, attribute)
        if first is None or last is None:
            continue
        is_perplexity = name.startswith("perplexity")
        first, last = (math.exp(loss) if is_perplexity else loss for loss in (first, last))
        shown.append(f"{name} {first:.4g} -> {last:.4g}")
    sentences = ["Before and after: " + ", ".join(shown)] if shown else []
    if after.divergence is not None:
        sentences.append(_change(after.divergence))
    return ". ".join(sentences) or None


def in_words(figures: Mapping[str, float]) -> str:
    """Return figures of an epoch as words. figures: by OpenAI's names; accuracies are left out."""
    return ", ".join(f"{_WORDS[name]} {value:.4f}" for name, value in figures.items() if name in _WORDS)


def means(results: Sequence[ResultRow]) -> dict[str, float]:
    """Return each metric's mean over the steps that have it, by OpenAI's names."""
    columns = {
        name: [value for result in results if (value := getattr(result, name)) is not None] for name in _OF_STEPS
    }
    return _named({name: sum(column) / len(column) if column else None for name, column in columns.items()})


def measured_values(found: Measurements) -> dict[str, float]:
    """Return the available measurements, by OpenAI's names."""
    return _named({name: getattr(found, name) for name in _OF_MEASUREMENTS})


def validated(result: ResultRow, found: Measurements) -> ResultRow:
    """Return a step's results with the validation measurements filled in."""
    return msgspec.structs.replace(
        result,
        valid_loss=found.valid_loss,
        valid_mean_token_accuracy=found.valid_accuracy,
        full_valid_mean_reward=found.valid_reward,
    )


def _named(values: Mapping[str, float | None]) -> dict[str, float]:
    names = {**_OF_STEPS, **_OF_MEASUREMENTS}
    return {names[name]: value for name, value in values.items() if value is not None}
