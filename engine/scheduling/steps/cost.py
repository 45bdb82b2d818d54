"""StepCost: how long a step will take, learned from the times of past steps."""

from dataclasses import dataclass
from typing import NamedTuple

_FAR = 8192  # the position that costs as much as the token itself, if the model does not say
_READ_TOKENS = 2  # reading a prompt's context costs as much as its positions add to that many tokens
_ATTENTION_FACTOR = 1.5  # time of an operation of attention, over one of a product with weights
_DECODE_WEIGHT = 0.1
# Faster steps than expected count more than slower ones, which may have been disturbed.
_FASTER_WEIGHT, _SLOWER_WEIGHT = 0.4, 0.2
_FIRST_FAR_STEPS, _FIRST_FAR_WEIGHT = 4, 0.8  # far into prompts, where only an estimate is known before
_MIN_SAMPLE = 8  # prompt tokens at a beginning, or fewer that cost as much; a smaller part is lost in the rest


class PromptCost(NamedTuple):
    """The cost of a prompt's next tokens in a step. The unit is the cost of one token at the beginning of a prompt."""

    token: float = 1.0  # cost of each token
    context: float = 0.0  # cost of reading the earlier context, once for all tokens
    row: float = 0.0  # cost of a row of logits at the prompt's end


class StepPrediction(NamedTuple):
    """Seconds that a step was expected to take, before it was learned from, and that it took; 0: no such step."""

    predicted_s: float = 0.0
    measured_s: float = 0.0


@dataclass(frozen=True, slots=True)
class StepSample:
    """A measured step. position: mean position of its prompt tokens. num_prompts: number of prompts with tokens in
    it. num_rows: number of prompts that end in it, with a row of logits each."""

    num_tokens: int
    num_prompt_tokens: int
    position: float
    step_s: float
    num_prompts: int = 1
    num_rows: int = 0
    is_batch: bool = False  # the step had no client's sequence


class StepCost:
    """Model of a step's time. A step that only generates takes `decode_s`. A prompt token adds a constant part, and a
    part that grows with its position, since it attends to all tokens before it. Each prompt in the step also adds the
    time of reading its earlier context once, which is about twice the position part of one token, and at its end that
    of a row of logits, a known multiple of the constant part:

        step_s = decode_s + (num_prompt_tokens + num_rows * row_cost) * token_s
            + (num_prompt_tokens + 2 num_prompts) * position * position_s

    Both parts are fitted online by normalized least mean squares: short prompts determine the first, long prompts the
    second. A step that mostly generates has little weight, since any disturbance would be ascribed to its prompts.
    """

    def __init__(self, token_s: float, position_cost: float = 0.0, row_cost: float = 0.0) -> None:
        """token_s: seconds per prompt token, measured at warm-up. position_cost: operations that each position before a
        token adds, relative to the token's own operations; 0: unknown. row_cost: the same of a row of logits."""
        self._token_s = token_s
        self.row_cost = row_cost
        self._far = 1 / position_cost if position_cost else _FAR
        self._far_s = _ATTENTION_FACTOR * token_s if position_cost else 0.0  # seconds that these positions add
        self._num_far_steps = 0
        self._decode_s: float | None = None

    @property
    def decode_s(self) -> float:
        """Seconds of a step that only generates; 0 until they are known."""
        return self._decode_s or 0.0

    def prompt_token_s(self, position: float) -> float:
        """Return the seconds that one prompt token at `position` adds."""
        return max(self._token_s + self._far_s * position / self._far, 1e-9)

    def prompt_s(self, position: float) -> float:
        """Return the seconds that a prompt adds besides its tokens, for reading the context before `position`."""
        return _READ_TOKENS * self._far_s * position / self._far

    def prompts_s(self, sample: StepSample) -> float:
        """Return the seconds that all prompts of a step add."""
        num_near, num_far = self._parts(sample)
        return num_near * self._token_s + num_far * self._far_s

    def expected_s(self, sample: StepSample) -> float:
        """Return the seconds that a step is expected to take; 0 if that is not known yet."""
        if not sample.num_prompt_tokens:
            return self.decode_s
        prompts_s = self.prompts_s(sample)
        return self.decode_s + prompts_s if prompts_s else 0.0

    def _parts(self, sample: StepSample) -> tuple[float, float]:
        """Return the factors of `_token_s` and `_far_s` in the time of a step's prompts."""
        distance = sample.position / self._far
        num_near = sample.num_prompt_tokens + self.row_cost * sample.num_rows
        return num_near, (sample.num_prompt_tokens + _READ_TOKENS * sample.num_prompts) * distance

    def observe(self, sample: StepSample, *, others_s: float | None = None) -> None:
        """Learn from a step that did not fail.

        others_s: seconds that the step would take without its prompts, by default `decode_s`.
        """
        if sample.num_prompt_tokens == 0:
            known_s = sample.step_s if self._decode_s is None else self._decode_s
            # A step of twice the time is an exception, such as a disturbance, until it is the rule.
            self._decode_s = known_s + (min(sample.step_s, 2 * known_s) - known_s) * _DECODE_WEIGHT
        elif sample.num_prompt_tokens * self.prompt_token_s(sample.position) >= _MIN_SAMPLE * self.prompt_token_s(0):
            self._learn(sample, self.decode_s if others_s is None else others_s)

    def _learn(self, sample: StepSample, others_s: float) -> None:
        num_near, num_far = self._parts(sample)
        expected_s = max(num_near * self._token_s + num_far * self._far_s, 1e-9)
        error_s = sample.step_s - others_s - expected_s
        error_s = max(-expected_s, min(expected_s, error_s))
        weight = _FASTER_WEIGHT if error_s < 0 else _SLOWER_WEIGHT
        if num_far > num_near and self._num_far_steps < _FIRST_FAR_STEPS:
            self._num_far_steps += 1
            weight = _FIRST_FAR_WEIGHT
        weight *= _trust(sample, others_s)
        change_s = error_s * weight / (num_near**2 + num_far**2)
        self._token_s = max(0.0, self._token_s + change_s * num_near)
        self._far_s = max(0.0, self._far_s + change_s * num_far)


def _trust(sample: StepSample, others_s: float) -> float:
    """Return the weight of a step in the estimates for prompts, 0 to 1; 1 if prompts took half of its time or more."""
    prompt_part = 1 - others_s / sample.step_s if sample.step_s > 0 else 0.0
    return min(1.0, max(0.0, 2 * prompt_part))
