"""Rollouts: answers sampled from the current adapter, to be graded and trained on."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import tokenizers

from engine.command_io.finetuning.items import GradedPrompt, Passage, TrainingItem
from engine.command_io.finetuning.thoughts import ThoughtMarks, answer_start
from models.decoder import Decoder
from models.training.generate import generate
from models.training.lora import Lora

_MAX_TOGETHER = 64  # sequences that are generated together, unless a prompt has more samples
_TEMPERATURE = 1.0  # of the trained distribution: only its samples give the gradient of the mean reward


def num_together(num_samples: int) -> int:
    """Return how many sequences are sampled in one batch: whole groups of `num_samples`."""
    return max(1, _MAX_TOGETHER // num_samples) * num_samples


@dataclass(frozen=True, slots=True)
class Rollout:
    """A sampled answer to a prompt. ids: the answer's tokens. text: the answer without its thinking. is_complete:
    whether the answer ended by itself; otherwise the token limit cut it off."""

    prompt: GradedPrompt
    ids: list[int]
    text: str
    is_complete: bool

    def to_learn(self) -> TrainingItem:
        first = len(self.prompt.ids)
        return TrainingItem(
            [Passage([*self.prompt.ids, *self.ids], [(first, first + len(self.ids))])], self.prompt.line
        )


class RolloutSampler:
    def __init__(
        self,
        decoder: Decoder,
        lora: Lora,
        tokenizer: tokenizers.Tokenizer,
        end_ids: Sequence[int],
        max_tokens: int,
        thought: ThoughtMarks | None = None,
    ) -> None:
        """max_tokens: limit per answer. thought: marks around the thinking part, for a reasoning model."""
        self._decoder = decoder
        self._lora = lora
        self._tokenizer = tokenizer
        self._end_ids = end_ids
        self._max_tokens = max_tokens
        self._thought = thought

    def sample(self, prompts: Sequence[GradedPrompt], num_samples: int, seed: str) -> list[list[Rollout]]:
        """Sample `num_samples` answers to each prompt. Deterministic for the same seed, prompts and adapter."""
        groups: list[list[Rollout]] = []
        step = num_together(num_samples) // num_samples
        for start in range(0, len(prompts), step):
            some = prompts[start : start + step]
            answers = generate(
                self._decoder,
                [prompt.ids for prompt in some],
                self._end_ids,
                self._max_tokens,
                temperature=_TEMPERATURE,
                seed=random.Random(f"{seed} {start}").getrandbits(63),
                num_samples=num_samples,
                lora=self._lora,
            )
            for number, prompt in enumerate(some):
                group = answers[number * num_samples : (number + 1) * num_samples]
                groups.append([self.rollout(prompt, ids) for ids in group])
        return groups

    def rollout(self, prompt: GradedPrompt, ids: list[int]) -> Rollout:
        """Make the Rollout of an answer's token ids."""
        return Rollout(prompt, ids, self._answer(prompt, ids), ids[-1] in self._end_ids)

    def _answer(self, prompt: GradedPrompt, ids: list[int]) -> str:
        """Decode an answer as a server would: without the thinking."""
        if self._thought is None:
            return self._tokenizer.decode(ids)

        def decode(some: Sequence[int]) -> str:
            return self._tokenizer.decode(some, skip_special_tokens=False)

        start = answer_start(ids, self._thought, decode, prompt=decode(prompt.ids))
        text = self._tokenizer.decode(ids[start:])
        return text.lstrip() if start else text
