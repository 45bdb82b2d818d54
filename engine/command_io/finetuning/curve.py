"""Curve: the results of a job that are written and drawn, by its method."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Curve:
    """A method's results. columns: of the results file after the step, by ResultRow's names, which are OpenAI's. train,
    valid: the two columns that are drawn; their quantity is `name`."""

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
