"""Figures of an epoch: means over the steps that have a value."""

from engine.command_io.finetuning.results import ResultRow
from engine.finetuning.verdict import means


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
