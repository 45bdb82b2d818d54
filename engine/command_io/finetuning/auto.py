"""Choice of the hyperparameters that the user has not given, from the method and the data."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from engine.command_io.finetuning.job import Hyperparameters, ScaleRewards, TrainingMethod

_LOWEST_RATE = 2e-4
_COMPLETION_TOKENS = 256
_GROUP_SIZE = 8
_LEAST_GROUP = 2  # a single answer cannot be compared
_MOST_CHECKPOINTS = 10  # each is a file, and a server reads all of them
_VALIDATED = 64  # answers, enough for a mean reward
_KL_WEIGHT = 0.0


class _Defaults(NamedTuple):
    """A method's default hyperparameters. LoRA takes 10 to 15 times the learning rate of full fine-tuning."""

    least_batch: int
    least_steps: int
    most_epochs: int
    usual_epochs: int
    learning_rate: float
    rank: int
    replay: float  # replayed answers of the base model per example
    most_answers: int = 4  # by the base, to one question


_DEFAULTS = {
    # After 30 steps, SmolLM2 gave a fact of 32 chats to 7 of 8 questions in other words, and after 45 to all.
    TrainingMethod.SUPERVISED: _Defaults(4, 45, 10, 3, 4e-4, 8, 0.5),
    TrainingMethod.DPO: _Defaults(4, 30, 8, 1, 5e-4, 8, 0.5),
    TrainingMethod.PRETRAINING: _Defaults(4, 30, 1, 1, 2e-4, 64, 0.25),
    TrainingMethod.REINFORCEMENT: _Defaults(4, 30, 10, 1, 5e-4, 8, 0.5),
}
# A small file whose answers differ: each answer needs as many steps as a fact that many lines repeat. Small steps at a
# high rate learn the same in a third of the tokens (docs/fine-tuning.md).
_DIFFERENT_ANSWERS = _Defaults(2, 240, 30, 3, 1e-3, 8, 0.5, most_answers=1)
_SMALL_FILE = 64  # examples
# That rate holds for a hidden size of 576. At 896 it changes other answers by 0.2, and a third of it by 0.03; both
# learn the file. The exponent comes from these two sizes.
_NARROW = 576
_RATE_EXPONENT = 2.5


@dataclass(frozen=True, slots=True)
class ResolvedHyperparameters:
    """All hyperparameters with their final values. given: the hyperparameters that the user gave."""

    given: Hyperparameters
    n_epochs: int
    batch_size: int
    learning_rate: float
    beta: float
    rank: int
    alpha: float
    rpo_alpha: float
    replayed_per_step: float  # average number of replayed answers of the base model
    num_replayed: int  # number of different answers that are replayed
    steps_per_epoch: int
    checkpoint_epochs: int  # from one checkpoint, with its measurements and samples, to the next

    @property
    def num_steps(self) -> int:
        """Number of updates of the weights, unless training is stopped early."""
        return self.n_epochs * self.steps_per_epoch


def default_rank(method: TrainingMethod) -> int:
    return _DEFAULTS[method].rank


def default_completion_tokens(max_model_len: int | None) -> int:
    """Return the default limit on an answer's tokens in reinforcement learning. max_model_len: None if unknown."""
    return _COMPLETION_TOKENS if max_model_len is None else max(1, min(_COMPLETION_TOKENS, max_model_len // 2))


def resolve_hyperparameters(
    method: TrainingMethod,
    given: Hyperparameters,
    num_items: int,
    num_questions: int,
    num_answers: int = 0,
    *,
    width: int,
) -> ResolvedHyperparameters:
    """Choose hyperparameters that are not given. num_items: number of examples. num_questions: number of prompts whose
    answers by the unchanged model can be replayed during training. num_answers: number of different answers in the
    examples. width: the model's hidden size."""
    default = _defaults(method, num_items, num_answers, width)
    batch_size = min(given.batch_size or min(32, max(default.least_batch, num_items // 64)), num_items)
    steps_per_epoch = math.ceil(num_items / batch_size)
    wanted = math.ceil(default.least_steps / steps_per_epoch)
    usual = min(default.most_epochs, max(default.usual_epochs, wanted))
    n_epochs = given.n_epochs or usual
    rank = given.lora_rank or default.rank
    # A longer training needs a lower rate.
    share = min(1.0, (2 * default.least_steps / (n_epochs * steps_per_epoch)) ** 0.5)
    rate = max(_LOWEST_RATE, default.learning_rate * share)
    most_answers = default.most_answers * num_questions
    replay = (default.replay if given.replay is None else given.replay) if num_questions else 0.0
    return ResolvedHyperparameters(
        given,
        n_epochs=n_epochs,
        batch_size=batch_size,
        learning_rate=rate * (1.0 if given.learning_rate_multiplier is None else given.learning_rate_multiplier),
        beta=0.5 if given.beta is None else given.beta,
        rank=rank,
        alpha=2.0 * rank if given.lora_alpha is None else given.lora_alpha,
        rpo_alpha=1.0 if given.rpo_alpha is None else given.rpo_alpha,
        replayed_per_step=replay * batch_size,
        num_replayed=min(math.ceil(replay * batch_size * n_epochs * steps_per_epoch), most_answers),
        steps_per_epoch=steps_per_epoch,
        checkpoint_epochs=epochs_between_checkpoints(given, n_epochs),
    )


def _defaults(method: TrainingMethod, num_items: int, num_answers: int, width: int) -> _Defaults:
    is_varied = num_answers > num_items / 2
    is_small = method is TrainingMethod.SUPERVISED and num_items < _SMALL_FILE
    if not (is_small and is_varied):
        return _DEFAULTS[method]
    share = min(1.0, (_NARROW / width) ** _RATE_EXPONENT)
    return _DIFFERENT_ANSWERS._replace(learning_rate=_DIFFERENT_ANSWERS.learning_rate * share)


def epochs_between_checkpoints(given: Hyperparameters, n_epochs: int) -> int:
    """Return how many epochs lie between checkpoints: one if the user asked for these epochs, since that is what an
    epoch means to OpenAI's clients. Otherwise a small file's many epochs make about ten checkpoints.

    given: as the user gave them, also for a job that continues.
    """
    return 1 if given.n_epochs is not None else math.ceil(n_epochs / _MOST_CHECKPOINTS)


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """Settings of sampling in reinforcement learning. group_size: answers per prompt in a step. max_tokens: limit of an
    answer. eval_samples: answers per validation prompt. kl_weight: weight of the KL divergence from the base model, in
    nats per token."""

    group_size: int
    max_tokens: int
    eval_samples: int
    scale: ScaleRewards
    kl_weight: float


def rollout_settings(given: Hyperparameters, num_valid: int) -> RolloutSettings:
    """Choose the settings that the user has not given. num_valid: number of prompts in the validation file."""
    multiplier = 1.0 if given.compute_multiplier is None else given.compute_multiplier
    group_size = given.group_size or max(_LEAST_GROUP, round(multiplier * _GROUP_SIZE))
    eval_samples = min(group_size, math.ceil(_VALIDATED / max(1, num_valid)))
    return RolloutSettings(
        group_size=group_size,
        max_tokens=given.max_completion_tokens or _COMPLETION_TOKENS,
        eval_samples=given.eval_samples or eval_samples,
        scale=given.scale_rewards or ScaleRewards.BATCH,
        kl_weight=_KL_WEIGHT if given.kl_weight is None else given.kl_weight,
    )
