"""ReinforcementSetup: prepares a job that trains on rewards for its own answers."""

from collections.abc import Mapping, Sequence
from typing import Any

from engine.command_io.finetuning.auto import ResolvedHyperparameters, rollout_settings
from engine.command_io.finetuning.graders.grading import Grade, grade_all
from engine.command_io.finetuning.graders.parsing import parse_grader
from engine.command_io.finetuning.graders.sample import Sample
from engine.command_io.finetuning.items import GradedPrompt, read_rows
from engine.command_io.finetuning.job import FinetuningJob, JobFolder
from engine.command_io.finetuning.mailbox import asker
from engine.command_io.finetuning.results import REWARD
from engine.errors import StartupError
from engine.finetuning.memory import GenerationMemory, check_memory, most_tokens
from engine.finetuning.reinforcement.report import mean_reward
from engine.finetuning.reinforcement.rollouts import Rollout, RolloutSampler, num_together
from engine.finetuning.reinforcement.task import GradeAll, ReinforcementTask
from engine.finetuning.samples import load_job_tokenizer
from engine.finetuning.setup import TaskContext
from engine.wording import counted
from models.decoder import Decoder
from models.training.lora import Lora
from models.training.paged_run import cache_bytes


class ReinforcementSetup:
    curve = REWARD

    def __init__(self, folder: JobFolder, job: FinetuningJob) -> None:
        self._folder = folder
        self._job = job
        self._prompts, self._valid = read_rows(folder.train, GradedPrompt), read_rows(folder.valid, GradedPrompt)
        self._settings = rollout_settings(job.hyperparameters, len(self._valid))

    @property
    def num_items(self) -> int:
        return len(self._prompts)

    @property
    def num_answers(self) -> int:
        return 0

    @property
    def longest(self) -> int:
        return self._longest_prompt + self._settings.max_tokens

    @property
    def _longest_prompt(self) -> int:
        return max(prompt.num_tokens for prompt in (*self._prompts, *self._valid))

    def check_length(self, limit: int) -> None:
        if self._longest_prompt >= limit:
            raise StartupError(
                f"a prompt has {self._longest_prompt:,} tokens; this model takes {limit:,}, with the answer; remove it"
            )
        if self.longest > limit:
            raise StartupError(
                f"a prompt with its answer has {self.longest:,} tokens; this model takes {limit:,}; give "
                f"--max-completion-tokens {limit - self._longest_prompt} or less"
            )

    def check_memory(self, decoder: Decoder, lora: Lora, resolved: ResolvedHyperparameters) -> None:
        settings = self._settings
        num_answers = resolved.batch_size * settings.group_size
        num_tokens = most_tokens([self.longest] * num_answers, num_answers)
        count = max(map(num_together, (settings.group_size, settings.eval_samples)))
        generation = GenerationMemory(count, cache_bytes(decoder, count, self.longest))
        check_memory(decoder, lora, num_tokens, keeps_best=bool(self._valid), generation=generation)

    def describe(self, resolved: ResolvedHyperparameters) -> tuple[str, Mapping[str, Any]]:  # noqa: ARG002
        settings = self._settings
        own = {
            "group_size": settings.group_size,
            "max_completion_tokens": settings.max_tokens,
            "kl_weight": settings.kl_weight,
            "scale_rewards": settings.scale,
            "eval_samples": settings.eval_samples if self._valid else None,
        }
        prompts, answers = counted(self.num_items, "prompt"), counted(settings.group_size, "answer")
        return f"{prompts}, {answers} of at most {counted(settings.max_tokens, 'token')} to each", own

    def make_task(self, context: TaskContext) -> ReinforcementTask:
        settings, seed = self._settings, self._job.seed
        sampler, grade = self._sampler(context.decoder, context.lora), self._grade()

        def difficulty(prompt: GradedPrompt) -> float:
            """Return the difficulty of a prompt: the negative mean reward of its answers before training."""
            (group,) = sampler.sample([prompt], settings.group_size, f"{seed} difficulty {prompt.line}")
            reward = mean_reward(grade(group))
            return 0.0 if reward is None else -reward

        orders = context.orders(self._prompts, difficulty, seed)
        return ReinforcementTask(context, sampler, grade, self._prompts, self._valid, orders, settings, seed)

    def _sampler(self, decoder: Decoder, lora: Lora) -> RolloutSampler:
        tokenizer = load_job_tokenizer(self._folder)
        if tokenizer is None:
            raise StartupError(f"{self._folder.path} has no tokenizer.json to decode answers with; start the job again")
        max_tokens, thought = self._settings.max_tokens, self._job.thought
        return RolloutSampler(decoder, lora, tokenizer, self._job.end_ids, max_tokens, thought)

    def _grade(self) -> GradeAll:
        if self._job.grader is None:
            raise StartupError(f"{self._folder.job} has no grader; start the job again")
        grader, ask_all = parse_grader(self._job.grader, "grader"), asker(self._folder)

        def grade(rollouts: Sequence[Rollout]) -> Sequence[Grade]:
            return grade_all(grader, [(rollout.prompt.item, _sample(rollout)) for rollout in rollouts], ask_all)

        return grade


def _sample(rollout: Rollout) -> Sample:
    return Sample(rollout.text, finish_reason="stop" if rollout.is_complete else "length")
