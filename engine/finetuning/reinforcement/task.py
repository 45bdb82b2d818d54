"""ReinforcementTask: each step samples answers to some prompts, grades them, and reinforces the better ones."""

import time
from collections.abc import Callable, Sequence
from itertools import chain

from engine.command_io.finetuning.auto import RolloutSettings
from engine.command_io.finetuning.graders.faults import GradingFault
from engine.command_io.finetuning.graders.grading import Grade
from engine.command_io.finetuning.items import GradedPrompt, TrainingItem
from engine.command_io.finetuning.results import ResultRow
from engine.errors import StartupError
from engine.finetuning.loss.objective import add_gradients
from engine.finetuning.order import BatchOrder, ReplayOrder
from engine.finetuning.reinforcement.advantages import advantages, has_signal
from engine.finetuning.reinforcement.objective import PolicyObjective
from engine.finetuning.reinforcement.report import all_at_fault, fault_of, mean_reward, reward_of, rollout_figures
from engine.finetuning.reinforcement.rollouts import Rollout, RolloutSampler
from engine.finetuning.setup import TaskContext
from engine.finetuning.state import Measurements
from engine.finetuning.task import StepOutcome
from engine.wording import counted

_MOST_FAILED = 3  # steps in a row in which no answer could be graded
_MOST_EQUAL = 5  # steps in a row in which nothing was learned, before a warning
_ALL_EQUAL = (
    "all answers to a prompt had the same reward, so nothing was learned: the prompts may be too easy or too "
    "difficult, or the grader may not tell good answers from bad ones"
)

GradeAll = Callable[[Sequence[Rollout]], Sequence[Grade]]


class ReinforcementTask:
    """Group relative policy optimization (GRPO: Shao et al. 2024), with one update per step.

    A step's answers depend only on the seed, the step and the adapter: an interrupted step samples the same answers
    again.
    """

    def __init__(
        self,
        context: TaskContext,
        sampler: RolloutSampler,
        grade: GradeAll,
        prompts: Sequence[GradedPrompt],
        valid: Sequence[GradedPrompt],
        orders: tuple[BatchOrder, ReplayOrder],
        settings: RolloutSettings,
        seed: int,
    ) -> None:
        self._context = context
        self._sampler = sampler
        self._grade = grade
        self._prompts = prompts
        self._valid = valid
        self._order, self._replay_order = orders
        self._settings = settings
        self._seed = seed
        self._num_failed = 0  # steps in a row without any grade
        self._num_equal = 0  # steps in a row in which nothing was learned
        self._warned_of_faults = False
        self._last_fault: GradingFault | None = None

    @property
    def steps_per_epoch(self) -> int:
        return self._order.steps_per_epoch

    def compute(self, step: int) -> StepOutcome:
        settings, context = self._settings, self._context
        prompts = [self._prompts[index] for index in self._order.batch(step)]
        replayed = [context.answers.pool[index] for index in self._replay_order.batch(step)]
        began_s = time.monotonic()
        groups = self._sampler.sample(prompts, settings.group_size, f"{self._seed} rollouts {step}")
        rollouts = list(chain.from_iterable(groups))
        sampled_s = time.monotonic()
        grades = self._grade(rollouts)
        self._check(grades)
        graded_s = time.monotonic()
        items, objective = self._learned(groups, grades)
        score = add_gradients(objective, items, context.decoder, context.lora, context.anchor, replayed)
        num_tokens = sum(len(rollout.ids) for rollout in rollouts)
        result = ResultRow(
            step + 1,
            train_mean_reward=mean_reward(grades),
            completion_tokens_mean=num_tokens / len(rollouts),
            mean_unresponsive_rewards=sum(not rollout.is_complete for rollout in rollouts) / len(rollouts),
            has_signal=bool(items),
        )
        data = {
            "train_mean_reward": result.train_mean_reward,
            "completion_tokens_mean": result.completion_tokens_mean,
            "mean_unresponsive_rewards": result.mean_unresponsive_rewards,
            "kl": objective.kl,
            "divergence": score.divergence,
            "tokens": sum(item.num_tokens for item in (*items, *replayed)),
            **rollout_figures(rollouts, grades, settings.group_size),
            "timing": {
                "step": {
                    "sampling": sampled_s - began_s,
                    "grading": graded_s - sampled_s,
                    "training": time.monotonic() - graded_s,
                }
            },
        }
        return StepOutcome(result, _summary(result), data, self._warnings(result, grades))

    def measure(self) -> Measurements:
        held_out = self._context.answers.held_out
        return Measurements(
            valid_reward=self._mean_reward(self._valid) if self._valid else None,
            divergence=self._context.anchor.measure(held_out) if held_out else None,
        )

    def conclude(self, results: Sequence[ResultRow]) -> str | None:
        """Raise StartupError if no answer of the job could be graded; return a warning if rewards never differed within
        a group.

        results: one row for each step, including steps before a restart.
        """
        steps = counted(len(results), "step")
        if all(result.train_mean_reward is None for result in results):
            reason = "the job's warnings say why" if self._last_fault is None else self._last_fault.message
            raise StartupError(f"no answer of {steps} could be graded: {reason}")
        if all(result.has_signal is False for result in results) and self._num_equal < _MOST_EQUAL:
            return f"In {steps}, which are all of the job, {_ALL_EQUAL}"
        return None

    def trained_tokens(self, results: Sequence[ResultRow]) -> int:
        total = 0
        for step, result in enumerate(results):
            prompts = [self._prompts[index] for index in self._order.batch(step)]
            num_rollouts = len(prompts) * self._settings.group_size
            total += sum(prompt.num_tokens for prompt in prompts) * self._settings.group_size
            total += round((result.completion_tokens_mean or 0.0) * num_rollouts)
        return total

    def _check(self, grades: Sequence[Grade]) -> None:
        """Raise StartupError after several consecutive steps in which no answer could be graded."""
        self._num_failed = self._num_failed + 1 if mean_reward(grades) is None else 0
        self._last_fault = fault_of(grades[0])
        if self._num_failed == _MOST_FAILED:
            assert self._last_fault is not None
            raise StartupError(f"no answer of {_MOST_FAILED} steps could be graded: {self._last_fault.message}")

    def _warnings(self, result: ResultRow, grades: Sequence[Grade]) -> tuple[str, ...]:
        found = []
        at_fault = None if self._warned_of_faults else all_at_fault(result.step, grades)
        if at_fault is not None:
            self._warned_of_faults = True
            found.append(at_fault)
        self._num_equal = 0 if result.has_signal else self._num_equal + 1
        if self._num_equal == _MOST_EQUAL:
            found.append(f"In {_MOST_EQUAL} steps, {_ALL_EQUAL}")
        return tuple(found)

    def _learned(
        self, groups: Sequence[Sequence[Rollout]], grades: Sequence[Grade]
    ) -> tuple[list[TrainingItem], PolicyObjective]:
        """Return the answers to train on, and their objective. Groups with equal rewards are left out."""
        settings, size = self._settings, self._settings.group_size
        starts = range(0, len(grades), size)
        rewards = [[reward_of(grade) for grade in grades[start : start + size]] for start in starts]
        items, factors = [], dict[int, float]()
        for group, of_group, own in zip(groups, advantages(rewards, settings.scale), rewards, strict=True):
            if not has_signal(own):
                continue
            for rollout, advantage, reward in zip(group, of_group, own, strict=True):
                if reward is not None:
                    items.append(rollout.to_learn())
                    factors[id(items[-1])] = advantage
        num_tokens = sum(len(rollout.ids) for group in groups for rollout in group)
        return items, PolicyObjective(
            self._context.decoder, self._context.lora, factors, num_tokens, settings.kl_weight
        )

    def _mean_reward(self, prompts: Sequence[GradedPrompt]) -> float | None:
        """Return the mean reward of sampled answers to the prompts, with a fixed seed for comparable results."""
        groups = self._sampler.sample(prompts, self._settings.eval_samples, f"{self._seed} validation")
        return mean_reward(self._grade(list(chain.from_iterable(groups))))


def _summary(result: ResultRow) -> str:
    if result.train_mean_reward is None:
        return "no answer could be graded"
    return f"mean reward={result.train_mean_reward:.4f}"
