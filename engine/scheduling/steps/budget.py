"""StepBudget: how many tokens a step may compute, so that it takes its target time and fits in memory."""

from collections import abc
from dataclasses import dataclass

from engine.scheduling.steps.batch_budget import BatchBudget
from engine.scheduling.steps.cost import PromptCost, StepCost, StepPrediction, StepSample

_FULL_STEPS = 16  # steps at the limit before larger ones are tried
_MAX_TOKENS, _MIN_PROMPT_TOKENS = 8192, 8


@dataclass(frozen=True, slots=True)
class StepTargets:
    """Durations and sizes of steps on one kind of device.

    While sequences generate, a step is a gap in their streams. It should be too short to be seen as a pause, but
    prompts must progress where a step that only generates takes as long by itself.
    """

    prefill_s: float  # while no sequence generates: long steps read the weights less often
    mixed_s: float  # while sequences generate, or
    mixed_steps: float  # this many times a step that only generates
    # Somewhat longer where a prompt would otherwise have less than about half of the rate that it has alone.
    most_s: float
    most_steps: float
    # Tokens of a step without streams, though it may exceed the target: with fewer rows, kernels read and dequantize
    # all weights for little, which makes the rate so low that the target never allows more.
    least_tokens: int
    least_far_tokens: int  # the same far into a prompt, where a step reads the weights and all of the context
    multiple: int  # steps with several times as many tokens are a multiple: kernels work on whole tiles
    trial_tokens: int  # most tokens of the step that is measured at the start


CPU_STEPS = StepTargets(
    0.5, 0.07, 2.5, 0.095, 2.75, least_tokens=128, least_far_tokens=32, multiple=16, trial_tokens=256
)
# By arithmetic for an H100, not measured on a GPU: an 8B model in bf16 computes 57,000 prompt tokens a second, so the
# most tokens of a step take 0.15 s, and one beside streams computes 2,800, which fill the device, in 50 ms.
GPU_STEPS = StepTargets(
    0.15, 0.05, 2.5, 0.08, 2.75, least_tokens=256, least_far_tokens=128, multiple=128, trial_tokens=2048
)


class StepBudget:
    """Limits the tokens of a step: to a target time or a fixed number, and to what fits in memory."""

    def __init__(
        self,
        num_tokens: int | None,
        seconds_per_token: float = 0.0,
        position_cost: float = 0.0,
        row_cost: float = 0.0,
        *,
        decode_s: float = 0.0,
        batch_step_s: float | None = None,
        targets: StepTargets = CPU_STEPS,
    ) -> None:
        """num_tokens: fixed limit of every step; None learns it, starting from `seconds_per_token`, `position_cost` and
        `row_cost` (StepCost).

        batch_step_s: target time of a step of batch jobs, starting from `decode_s`, the time of a step of one sequence;
        None limits such steps like any other. targets: of the device.
        """
        self._targets = targets
        self._num_tokens = num_tokens
        self._cost = StepCost(seconds_per_token, position_cost, row_cost)
        self._batch = None if batch_step_s is None else BatchBudget(batch_step_s, self._cost, decode_s)
        self._memory = StepMemory(self.max_tokens)
        self._prediction = StepPrediction()

    @property
    def max_tokens(self) -> int:
        return self._num_tokens or _MAX_TOKENS

    def target_s(self, num_generating: int) -> float:
        targets = self._targets
        return max(targets.mixed_s, targets.mixed_steps * self._cost.decode_s) if num_generating else targets.prefill_s

    @property
    def most_s(self) -> float:
        """Maximum seconds of a step in which other sequences generate, for prompts that would otherwise run at less
        than half the speed that they have alone."""
        return max(self._targets.most_s, self._targets.most_steps * self._cost.decode_s)

    def tokens(self, num_generating: int, *, is_batch: bool = False) -> int:
        """Return the maximum number of tokens in the next step, in which `num_generating` sequences continue their
        output. is_batch: the step has no client's sequence.

        Unless memory is short, every generating sequence gets a token, and some tokens are left for prompts; far
        into a prompt a token costs more, so fewer fit (see `costs`).
        """
        num_tokens = self._tokens_in_time(num_generating)
        if is_batch and self._batch is not None:
            in_time = self._batch.num_rows(num_generating) + self._batch.num_prompt_tokens(num_generating)
            num_tokens = min(self.max_tokens, in_time)
        return self._memory.limit(num_tokens)

    def costs(self, num_generating: int, *, is_batch: bool = False) -> abc.Callable[[int], PromptCost]:
        """Return a function from a position to the cost of prompt tokens there in the next step. A token never costs
        less than one at the beginning of a prompt, so no step has more prompt tokens than `tokens` allows."""
        if is_batch and self._batch is not None:
            return self._cost_of
        if self._num_tokens is not None:
            return lambda _: PromptCost()
        if not num_generating:
            return self._cost_alone
        num_prompt_tokens = self._tokens_in_time(num_generating) - num_generating
        return lambda position: self._cost_beside_streams(position, num_prompt_tokens)

    def _cost_of(self, position: int) -> PromptCost:
        first_s = self._cost.prompt_token_s(0)
        token_s, prompt_s = self._cost.prompt_token_s(position), self._cost.prompt_s(position)
        return PromptCost(max(1.0, token_s / first_s), prompt_s / first_s, self._cost.row_cost)

    def _cost_alone(self, position: int) -> PromptCost:
        """Return the cost of prompt tokens at a position while no sequence generates: lower if fewer than
        `least_far_tokens` would fit in the target time."""
        cost, num_tokens, least = self._cost_of(position), self._tokens_in_time(0), self._targets.least_far_tokens
        if least * cost.token + cost.context <= num_tokens:
            return cost
        return PromptCost(max(1.0, num_tokens / least))

    def _cost_beside_streams(self, position: int, num_prompt_tokens: int) -> PromptCost:
        """Return the cost of prompt tokens at a position while sequences generate: lower if the step may take up to
        `most_s`. num_prompt_tokens: how many tokens at the beginning of a prompt fit in the target time."""
        cost = self._cost_of(position)
        token_s = self._cost.prompt_token_s(position)
        others_s = self._cost.decode_s + self._cost.prompt_s(position)
        num_for_half = min(round(others_s / token_s), int((self.most_s - others_s) / token_s))
        price = num_for_half * cost.token + cost.context
        if num_for_half < 1 or not 0 < num_prompt_tokens < price:
            return cost
        scale = num_prompt_tokens / price
        return PromptCost(max(1.0, cost.token * scale), cost.context * scale, cost.row)

    def prefill_s(self, start: int, num_tokens: int) -> float:
        """Return the seconds that prompt tokens from position `start` on are likely to take."""
        return num_tokens * self._cost.prompt_token_s(start + num_tokens / 2)

    def _tokens_in_time(self, num_generating: int) -> int:
        if self._num_tokens is not None:
            return self._num_tokens
        decode_s = self._cost.decode_s if num_generating else 0.0
        num_prompt_tokens = int((self.target_s(num_generating) - decode_s) / self._cost.prompt_token_s(0))
        if num_prompt_tokens >= 4 * self._targets.multiple:
            num_prompt_tokens -= num_prompt_tokens % self._targets.multiple
        least = _MIN_PROMPT_TOKENS if num_generating else self._targets.least_tokens
        return min(_MAX_TOKENS, num_generating + max(least, num_prompt_tokens))

    def observe(self, sample: StepSample) -> None:
        """Update the estimates with the measurement of a step that did not fail."""
        self._memory.observe(sample.num_tokens)
        model = self._batch if sample.is_batch else self._cost
        if model is None:
            return
        if expected_s := model.expected_s(sample):
            self._prediction = StepPrediction(expected_s, sample.step_s)
        model.observe(sample)

    def take_prediction(self) -> StepPrediction:
        """Return the prediction of the last observed step, once."""
        prediction, self._prediction = self._prediction, StepPrediction()
        return prediction

    def shrink(self, num_tokens: int) -> bool:
        """Halve the limit after a step of `num_tokens` ran out of memory. Returns False if one token was too many."""
        return self._memory.shrink(num_tokens)


class StepMemory:
    """Limit on the tokens of a step, set by steps that ran out of memory.

    Such a step halves the limit. The limit doubles again after a number of full steps, which doubles with each further
    failure, so that failing attempts stay rare.
    """

    def __init__(self, max_tokens: int) -> None:
        """max_tokens: the limit of a step while memory suffices."""
        self._max_tokens = max_tokens
        self._limit: int | None = None
        self._num_full = 0  # steps at the limit since it was set
        self._patience = _FULL_STEPS

    def limit(self, num_tokens: int) -> int:
        """Return `num_tokens`, or fewer if memory did not suffice for as many."""
        return num_tokens if self._limit is None else min(num_tokens, self._limit)

    def observe(self, num_tokens: int) -> None:
        """Count a successful step of `num_tokens` tokens; raise the limit if enough steps have reached it."""
        if self._limit is None or num_tokens < self._limit:
            return
        self._num_full += 1
        if self._num_full >= self._patience:
            self._num_full = 0
            self._limit *= 2
            if self._limit >= self._max_tokens:
                self._limit, self._patience = None, _FULL_STEPS

    def shrink(self, num_tokens: int) -> bool:
        """Set the limit to half of `num_tokens`, which did not fit. Returns False if one token was too many."""
        num_tokens = self.limit(num_tokens)  # a failure never raises the limit
        if num_tokens < 2:
            return False
        if self._limit is not None:
            self._patience *= 2
        self._limit = num_tokens // 2
        self._num_full = 0
        return True
