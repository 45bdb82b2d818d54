"""RolloutSettings: how many answers reinforcement samples, and how it learns from them."""

import math
from dataclasses import dataclass

from engine.command_io.finetuning.job import Hyperparameters, ScaleRewards

_GROUP_SIZE = 8
_LEAST_GROUP = 2  # a single answer cannot be compared
_MAX_TOKENS = 256
_VALIDATED = 64  # answers, enough for a mean reward
_KL_WEIGHT = 0.0


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """Numbers of reinforcement. group_size: answers to each prompt of a step. max_tokens: of an answer. eval_samples:
    answers to each prompt of the validation file. kl_weight: of the divergence from the base, in nats per token."""

    group_size: int
    max_tokens: int
    eval_samples: int
    scale: ScaleRewards
    kl_weight: float


def rollout_settings(given: Hyperparameters, num_valid: int) -> RolloutSettings:
    """Choose the numbers that the user has not given. num_valid: prompts of the validation file."""
    multiplier = 1.0 if given.compute_multiplier is None else given.compute_multiplier
    group_size = given.group_size or max(_LEAST_GROUP, round(multiplier * _GROUP_SIZE))
    eval_samples = min(group_size, math.ceil(_VALIDATED / max(1, num_valid)))
    return RolloutSettings(
        group_size=group_size,
        max_tokens=given.max_completion_tokens or _MAX_TOKENS,
        eval_samples=given.eval_samples or eval_samples,
        scale=given.scale_rewards or ScaleRewards.BATCH,
        kl_weight=_KL_WEIGHT if given.kl_weight is None else given.kl_weight,
    )
