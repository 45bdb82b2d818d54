"""Advantages: how much better each answer is than the other answers to its prompt."""

from collections.abc import Sequence

from engine.command_io.finetuning.job import ScaleRewards

_LEAST_SCALE = 1e-4  # keeps tiny differences of rewards from being blown up

Rewards = Sequence[Sequence[float | None]]  # of each prompt's answers; None where an answer could not be graded


def advantages(groups: Rewards, scale: ScaleRewards) -> list[list[float]]:
    """Return rewards minus their group's mean (Shao et al. 2024), and 0 for answers without a reward.

    They are divided by a standard deviation. By that of their own group (GRPO), prompts that are almost always or
    almost never answered right get the weight of all others (Liu et al. 2025). By that of the whole step they do not,
    and the scale of a grader's numbers still makes no difference. Or they are not divided.
    """
    centered = [_centered(group) for group in groups]
    match scale:
        case ScaleRewards.GROUP:
            spreads = [spread(group) for group in groups]
        case ScaleRewards.BATCH:
            spreads = [_root_mean_square([value for group in centered for value in group])] * len(groups)
        case ScaleRewards.NONE:
            return [[value or 0.0 for value in group] for group in centered]
    return [
        [(value or 0.0) / (deviation + _LEAST_SCALE) for value in group]
        for group, deviation in zip(centered, spreads, strict=True)
    ]


def has_signal(group: Sequence[float | None]) -> bool:
    """Return whether some of the answers are better than others: if not, nothing can be learned from them."""
    return len(set(group) - {None}) > 1


def spread(group: Sequence[float | None]) -> float:
    """Return the standard deviation of the rewards; 0 if there are none."""
    return _root_mean_square(_centered(group))


def _centered(group: Sequence[float | None]) -> list[float | None]:
    known = [reward for reward in group if reward is not None]
    mean = sum(known) / len(known) if known else 0.0
    return [None if reward is None else reward - mean for reward in group]


def _root_mean_square(values: Sequence[float | None]) -> float:
    squares = [value * value for value in values if value is not None]
    return (sum(squares) / len(squares)) ** 0.5 if squares else 0.0
