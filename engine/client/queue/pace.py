"""StepPace: estimates the duration of a step, and a sequence's tokens per step, from past steps."""

_WEIGHT = 0.99  # of earlier steps, for each step that is added: the last hundred or so count
_MIN_SPREAD = 0.5  # of the steps' tokens over their mean; steps of one size do not say what a token costs
_FIRST_STEPS = 20  # that the warm-up's measurement counts for: the first real steps are mostly prompts
# How the engine bounds steps (engine/scheduling/steps/budget.py): alone, and while sequences generate.
_ALONE_S = 0.5
_BESIDE_S, _BESIDE_STEPS, _MIN_TOKENS = 0.07, 2.5, 8


class StepPace:
    """Least-squares fit of the time of recent steps: a step of n tokens takes a + b n seconds.

    While all steps have about the same size, b stays and a follows their mean time.
    """

    def __init__(self) -> None:
        self._seconds_per_token = 0.0  # b
        self._overhead_s = 0.0  # a
        self._weight = 0.0
        self._sum_n = self._sum_s = self._sum_nn = self._sum_ns = 0.0
        self._num_outputs = self._num_tokens = self._output_steps = self._output_s = 0.0
        self._queried = self._hits = 0.0

    def set_measured(self, seconds_per_token: float, decode_s: float) -> None:
        """Start from the warm-up's measurements if no step has been observed: seconds per prompt token, and seconds of
        a step with one generating sequence; 0 is unknown."""
        if self._weight == 0:
            self._seconds_per_token = seconds_per_token
            self._overhead_s = max(0.0, decode_s - seconds_per_token)
            if decode_s:
                self._num_outputs = self._num_tokens = self._output_steps = float(_FIRST_STEPS)
                self._output_s = _FIRST_STEPS * decode_s

    def observe(self, num_tokens: int, step_s: float, num_outputs: int, num_output_tokens: int) -> None:
        """Learn from a step that computed `num_tokens`, and gave `num_output_tokens` to `num_outputs` sequences."""
        self._weight = _WEIGHT * self._weight + 1
        self._sum_n = _WEIGHT * self._sum_n + num_tokens
        self._sum_s = _WEIGHT * self._sum_s + step_s
        self._sum_nn = _WEIGHT * self._sum_nn + num_tokens * num_tokens
        self._sum_ns = _WEIGHT * self._sum_ns + num_tokens * step_s
        mean_n, mean_s = self._sum_n / self._weight, self._sum_s / self._weight
        variance = self._sum_nn / self._weight - mean_n * mean_n
        if variance > (_MIN_SPREAD * mean_n) ** 2:
            slope = (self._sum_ns / self._weight - mean_n * mean_s) / variance
            self._seconds_per_token = min(max(slope, 0.0), mean_s / mean_n)
        self._seconds_per_token = min(self._seconds_per_token or mean_s / mean_n, mean_s / mean_n)
        self._overhead_s = mean_s - self._seconds_per_token * mean_n
        if num_outputs:
            self._num_outputs = _WEIGHT * self._num_outputs + num_outputs
            self._num_tokens = _WEIGHT * self._num_tokens + num_output_tokens
            self._output_steps = _WEIGHT * self._output_steps + 1
            self._output_s = _WEIGHT * self._output_s + step_s

    def observe_prefixes(self, num_queried: int, num_hit: int) -> None:
        """Learn that `num_hit` of `num_queried` prompt tokens were found in the prefix cache."""
        if num_queried:
            self._queried = _WEIGHT * self._queried + num_queried
            self._hits = _WEIGHT * self._hits + num_hit

    @property
    def uncached(self) -> float:
        """Share of prompt tokens that miss the prefix cache."""
        return 1.0 - self._hits / self._queried if self._queried else 1.0

    @property
    def seconds_per_output_token(self) -> float:
        """Time between two tokens of one sequence; 0 is unknown."""
        if not self._num_tokens:
            return 0.0
        return self._output_s / self._output_steps * self._num_outputs / self._num_tokens

    def prefill_s(
        self, num_tokens: float, *, num_generating: int, max_step_tokens: int, is_timed: bool = True
    ) -> float:
        """Estimate the seconds to prefill `num_tokens` prompt tokens in steps of at most `max_step_tokens`, while
        `num_generating` sequences are decoding. is_timed: whether the engine also limits the duration of a step."""
        per_token_s = self._seconds_per_token
        decode_s = self._overhead_s + num_generating * per_token_s
        step_tokens = float(max_step_tokens)
        if is_timed and per_token_s:
            bound_s = max(_BESIDE_S, _BESIDE_STEPS * decode_s) - decode_s if num_generating else _ALONE_S
            step_tokens = min(step_tokens, max(_MIN_TOKENS, bound_s / per_token_s))
        num_steps = max(1.0, num_tokens / max(1.0, step_tokens))
        return num_tokens * per_token_s + num_steps * decode_s
