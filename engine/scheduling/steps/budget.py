"""StepBudget: how many tokens a step may compute, so that it takes the time that it should and fits in memory."""

from collections import abc

from engine.scheduling.steps.batch_budget import BatchBudget
from engine.scheduling.steps.cost import PromptCost, StepCost, StepSample

_FULL_STEPS = 16  # steps at the limit before larger ones are tried

_PREFILL_TARGET_S = 0.5  # while no sequence generates: long steps read the weights less often
# While sequences generate, a step is a gap in their streams. It should be too short to be seen as a pause, but prompts
# must progress where a step that only generates takes as long by itself.
_MIXED_TARGET_S, _MIXED_TARGET_STEPS = 0.07, 2.5
# Somewhat longer where a prompt would otherwise have less than about half of the rate that it has alone.
_MIXED_MOST_S, _MIXED_MOST_STEPS = 0.095, 2.75
_MAX_TOKENS, _MIN_PROMPT_TOKENS = 8192, 8
_TOKENS_MULTIPLE = 16  # steps with several times as many tokens are a multiple: kernels work on whole tiles


class StepBudget:
    """Bounds a step in time, or at a fixed number of tokens, and by the memory that steps need."""

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

        batch_step_s: target for the time of a step without clients' sequences, starting from `decode_s`, the time of a
        step of one sequence; None bounds such steps like any other.
        """
        self._num_tokens = num_tokens
        self._cost = StepCost(seconds_per_token, position_cost)
        self._batch = None if batch_step_s is None else BatchBudget(batch_step_s, self._cost, decode_s)
        self._memory = StepMemory(self.max_tokens)

    @property
    def max_tokens(self) -> int:
        return self._num_tokens or _MAX_TOKENS

    def target_s(self, num_generating: int) -> float:
        return max(_MIXED_TARGET_S, _MIXED_TARGET_STEPS * self._cost.decode_s) if num_generating else _PREFILL_TARGET_S

    @property
    def most_s(self) -> float:
        """Seconds of a step beside streams where a prompt would otherwise have less than about half of its rate."""
        return max(_MIXED_MOST_S, _MIXED_MOST_STEPS * self._cost.decode_s)

    def tokens(self, num_generating: int, *, is_batch: bool = False) -> int:
        """Return the most tokens of the next step, in which `num_generating` sequences continue their output. is_batch:
        the step has no client's sequence.

        Each of these sequences has a token in any case, and prompts have some tokens beside them, or fewer the further
        they are (`costs`). This does not hold while memory is short.
        """
        num_tokens = self._tokens_in_time(num_generating)
        if is_batch and self._batch is not None:
            in_time = self._batch.num_rows(num_generating) + self._batch.num_prompt_tokens(num_generating)
            num_tokens = min(self.max_tokens, in_time)
        return self._memory.limit(num_tokens)

    def costs(self, num_generating: int, *, is_batch: bool = False) -> abc.Callable[[int], PromptCost]:
        """Return the cost of a prompt's tokens at a position in the next step. It is never less than that of a token at
        the beginning of a prompt, so no step has more of them than `tokens`."""
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
        """Return a lower cost where a step may take longer than `num_prompt_tokens` do at a beginning."""
        cost = self._cost_of(position)
        token_s = self._cost.prompt_token_s(position)
        others_s = self._cost.decode_s + self._cost.prompt_s(position)
        num_for_half = min(round(others_s / token_s), int((self.most_s - others_s) / token_s))
        price = num_for_half * cost.token + cost.context
        if num_for_half < 1 or not 0 < num_prompt_tokens < price:
            return cost
        scale = num_prompt_tokens / price
        return PromptCost(max(1.0, cost.token * scale), cost.context * scale)

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
        """Halve the tokens of a step after a shortage of memory. Returns False if less than one would be left."""
        return self._memory.shrink(num_tokens)


class StepMemory:
    """The most tokens of a step for which memory has sufficed.

    A step that runs out of memory halves the limit. The limit doubles again after some full steps, after more of them
    each time: so the larger steps cost little if they fail too.
    """

    def __init__(self, max_tokens: int) -> None:
        """max_tokens: limit of every step."""
        self._max_tokens = max_tokens
        self._limit: int | None = None
        self._num_full = 0  # steps at the limit since it was set
        self._patience = _FULL_STEPS

    def limit(self, num_tokens: int) -> int:
        """Return `num_tokens`, or as many of them as fit in memory."""
        return num_tokens if self._limit is None else min(num_tokens, self._limit)

    def observe(self, num_tokens: int) -> None:
        """Raise the limit if enough steps have reached it. num_tokens: of a step that did not fail."""
        if self._limit is None or num_tokens < self._limit:
            return
        self._num_full += 1
        if self._num_full >= self._patience:
            self._num_full = 0
            self._limit *= 2
            if self._limit >= self._max_tokens:
                self._limit, self._patience = None, _FULL_STEPS

    def shrink(self, num_tokens: int) -> bool:
        """Allow half of `num_tokens`, which ran out of memory. Returns False if less than one would be left."""
        num_tokens = self.limit(num_tokens)  # a failure never raises the limit
        if num_tokens < 2:
            return False
        if self._limit is not None:
            self._patience *= 2
        self._limit = num_tokens // 2
        self._num_full = 0
        return True
