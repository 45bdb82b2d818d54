"""StepBudget: how many tokens a step may compute, so that it takes as long as it should and memory suffices."""

from collections import abc

from engine.scheduling.steps.batch_budget import BatchBudget
from engine.scheduling.steps.cost import PromptCost, StepCost, StepSample
from engine.scheduling.steps.memory import StepMemory

_PREFILL_TARGET_S = 0.5  # while no sequence generates: long steps read the weights fewer times
# While sequences generate, a step is a gap in their streams: no longer than reads as a pause, but prompts must get on
# where a step that only generates takes as long alone.
_MIXED_TARGET_S, _MIXED_TARGET_STEPS = 0.07, 2.5
# Or somewhat longer, where a prompt would else have less than about half of the rate that it has alone.
_MIXED_MOST_S, _MIXED_MOST_STEPS = 0.095, 2.75
_MAX_TOKENS, _MIN_PROMPT_TOKENS = 8192, 8
_TOKENS_MULTIPLE = 16  # of steps with several times as many: kernels work on whole tiles


class StepBudget:
    """Bounds a step in time, or at a fixed number of tokens, and by what memory suffices for."""

    def __init__(
        self,
        num_tokens: int | None,
        seconds_per_token: float = 0.0,
        position_cost: float = 0.0,
        *,
        decode_s: float = 0.0,
        batch_step_s: float | None = None,
    ) -> None:
        """num_tokens: of every step; None learns, starting from `seconds_per_token` and `position_cost` (StepCost).

        batch_step_s: how long a step should take in which no client has a part, starting from `decode_s`, which is that
        of one sequence; None bounds them as those of clients.
        """
        self._num_tokens = num_tokens
        self._cost = StepCost(seconds_per_token, position_cost)
        self._batch = None if batch_step_s is None else BatchBudget(batch_step_s, self._cost, decode_s)
        self._memory = StepMemory(self.max_tokens)

    @property
    def max_tokens(self) -> int:
        """No step has more."""
        return self._num_tokens or _MAX_TOKENS

    def target_s(self, num_generating: int) -> float:
        """How long a step should take."""
        return max(_MIXED_TARGET_S, _MIXED_TARGET_STEPS * self._cost.decode_s) if num_generating else _PREFILL_TARGET_S

    @property
    def most_s(self) -> float:
        """How long a step may take beside streams where a prompt would else have less than about half of its rate."""
        return max(_MIXED_MOST_S, _MIXED_MOST_STEPS * self._cost.decode_s)

    def tokens(self, num_generating: int, *, is_batch: bool = False) -> int:
        """Most tokens of the next step, in which `num_generating` sequences continue their output. is_batch: and no
        client's.

        Each of those has a token in any case, and prompts have some beside them, or fewer the farther they are
        (`costs`); not so while memory is short.
        """
        num_tokens = self._tokens_in_time(num_generating)
        if is_batch and self._batch is not None:
            in_time = self._batch.num_rows(num_generating) + self._batch.num_prompt_tokens(num_generating)
            num_tokens = min(self.max_tokens, in_time)
        return self._memory.limit(num_tokens)

    def costs(self, num_generating: int, *, is_batch: bool = False) -> abc.Callable[[int], PromptCost]:
        """What a prompt's tokens at a position cost in the next step: never less than one at its beginning, so that no
        step has more of them than `tokens`."""
        if is_batch and self._batch is not None:
            return self._cost_of
        if self._num_tokens is not None:
            return lambda _: PromptCost()
        if not num_generating:
            return self._cost_of
        num_prompt_tokens = self._tokens_in_time(num_generating) - num_generating
        return lambda position: self._cost_beside_streams(position, num_prompt_tokens)

    def _cost_of(self, position: int) -> PromptCost:
        first_s = self._cost.prompt_token_s(0)
        token_s, prompt_s = self._cost.prompt_token_s(position), self._cost.prompt_s(position)
        return PromptCost(max(1.0, token_s / first_s), prompt_s / first_s)

    def _cost_beside_streams(self, position: int, num_prompt_tokens: int) -> PromptCost:
        """Less where a step may take longer than `num_prompt_tokens` take at the beginning of a prompt."""
        cost = self._cost_of(position)
        token_s = self._cost.prompt_token_s(position)
        others_s = self._cost.decode_s + self._cost.prompt_s(position)
        num_for_half = min(round(others_s / token_s), int((self.most_s - others_s) / token_s))
        price = num_for_half * cost.token + cost.entry
        if num_for_half < 1 or not 0 < num_prompt_tokens < price:
            return cost
        scale = num_prompt_tokens / price
        return PromptCost(max(1.0, cost.token * scale), cost.entry * scale)

    def _tokens_in_time(self, num_generating: int) -> int:
        if self._num_tokens is not None:
            return self._num_tokens
        decode_s = self._cost.decode_s if num_generating else 0.0
        num_prompt_tokens = int((self.target_s(num_generating) - decode_s) / self._cost.prompt_token_s(0))
        if num_prompt_tokens >= 4 * _TOKENS_MULTIPLE:
            num_prompt_tokens -= num_prompt_tokens % _TOKENS_MULTIPLE
        return min(_MAX_TOKENS, num_generating + max(_MIN_PROMPT_TOKENS, num_prompt_tokens))

    def observe(self, sample: StepSample) -> None:
        """Learn from a step that did not fail."""
        self._memory.observe(sample.num_tokens)
        if not sample.is_batch:
            self._cost.observe(sample)
        elif self._batch is not None:
            self._batch.observe(sample)

    def shrink(self, num_tokens: int) -> bool:
        """Memory did not suffice for a step of `num_tokens`: allow half of them. False if that is less than one."""
        return self._memory.shrink(num_tokens)
