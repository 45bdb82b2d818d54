"""advantages: how much better each answer is than the other answers to its prompt."""

from collections.abc import Sequence

from engine.command_io.finetuning.job import ScaleRewards

_LEAST_SCALE = 1e-4  # keeps tiny differences of rewards from being blown up

Rewards = Sequence[Sequence[float | None]]  # of each prompt's answers; None where an answer could not be graded


def advantages(groups: Rewards, scale: ScaleRewards) -> list[list[float]]:
    """Return each reward minus its group's mean (Shao et al. 2024), scaled; 0 for answers without a reward.

    GROUP divides by the standard deviation of the answer's group (GRPO): prompts that are almost always or almost never
    answered right then weigh as much as all others (Liu et al. 2025). BATCH divides by the standard deviation over the
    whole step: this avoids that bias and is still independent of the grader's scale. NONE does not divide.
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
    """Return whether the rewards of the group differ; if not, the group gives no gradient."""
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
