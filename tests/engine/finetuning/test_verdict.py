"""Figures of an epoch: means over the steps that have a value, and what they say in words."""

from engine.command_io.finetuning.results import ResultRow
from engine.finetuning.state import Measurements, TrainingProgress
from engine.finetuning.verdict import before_and_after, in_words, means, warnings


def test_a_step_without_a_grade_leaves_the_epochs_mean_reward() -> None:
    results = [
        ResultRow(1, train_mean_reward=0.25, completion_tokens_mean=4.0),
        ResultRow(2, completion_tokens_mean=8.0),
        ResultRow(3, train_mean_reward=0.75, completion_tokens_mean=6.0),
    ]
    assert means(results) == {"train_mean_reward": 0.5, "completion_tokens_mean": 6.0}


def test_what_no_step_has_is_left_out() -> None:
    assert means([ResultRow(1, train_loss=2.0, train_accuracy=0.5)]) == {
        "train_loss": 2.0,
        "train_mean_token_accuracy": 0.5,
    }


def test_the_change_of_other_answers_is_said_in_words() -> None:
    before = Measurements(valid_loss=2.5, divergence=0.0)

    near = before_and_after(before, Measurements(valid_loss=0.5, divergence=0.018))
    assert near == (
        "Before and after: validation loss 2.5 -> 0.5. Answers to other questions changed little (0.018; below 0.06 is "
        "fine)"
    )
    far = Measurements(divergence=0.0812)
    assert before_and_after(before, far) == "Answers to other questions changed much (0.081; below 0.06 is fine)"
    assert warnings(TrainingProgress(digest=""), far) == [
        "Answers to other questions changed much (0.081; below 0.06 is fine): they may get worse; a lower "
        "--learning-rate-multiplier, fewer epochs or more --replay keeps them"
    ]
    assert before_and_after(before, Measurements()) is None


def test_figures_of_an_epoch_are_named_in_words() -> None:
    figures = {"train_loss": 2.0, "train_mean_token_accuracy": 0.5, "general_divergence": 0.01234}

    assert in_words(figures) == "training loss 2.0000, change of other answers 0.0123"
