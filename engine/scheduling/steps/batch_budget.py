"""BatchBudget: limits steps of batch jobs, so that a client's request that arrives during such a step waits little.

Without this limit, a batch job would fill steps with as many sequences as memory holds. Waiting for the running step to
end is all that a batch job costs a client.
"""

from engine.scheduling.steps.cost import StepCost, StepSample

_LEAST_STEPS = 2.0  # times the step of one sequence: where that is long, several must share the reading of weights
_WEIGHT = 0.97  # of earlier steps, for each step that is added: the last thirty or so count
_MIN_SPREAD = 0.2  # of the steps' rows over their mean; steps of one size do not say what a row costs
_LEAST_ROW_S = 1e-9
_MOST = 2.0  # times the expected seconds; a step that took longer was disturbed


class BatchBudget:
    """Chooses the size of batch jobs' steps for a target time. A step in which n sequences generate takes a + b n
    seconds, fitted to the last steps by least squares. While n hardly varies, b is kept and a follows the mean.
    StepCost models the time of prompt tokens."""

    def __init__(self, target_s: float, cost: StepCost, decode_s: float = 0.0) -> None:
        """target_s: target time of a step, raised to at least twice `decode_s`, the time of a step of one generating
        sequence (0: unknown). cost: model of prompt time; it also learns from the steps of batch jobs."""
        self.target_s = max(target_s, _LEAST_STEPS * decode_s)  # seconds that a step should take
        self._cost = cost
        self._row_s = cost.prompt_token_s(0)  # b
        self._others_s = max(0.0, decode_s - self._row_s)  # a
        self._weight = self._sum_n = self._sum_s = self._sum_nn = self._sum_ns = 0.0

    def num_rows(self, num_generating: int) -> int:
        """Return how many of `num_generating` sequences may continue in the next step; the other sequences wait and
        keep their blocks."""
        num_fitting = int((self.target_s - self._others_s) / self._row_s)
        return min(num_generating, max(1, num_fitting))

    def num_prompt_tokens(self, num_generating: int) -> int:
        """Return how many prompt tokens fit beside `num_rows` sequences; at least one if no sequence generates."""
        left_s = self.target_s - self._step_s(self.num_rows(num_generating))
        return max(int(num_generating == 0), int(left_s / self._cost.prompt_token_s(0)))

    def _step_s(self, num_rows: int) -> float:
        return self._others_s + self._row_s * num_rows if num_rows else 0.0

    def expected_s(self, sample: StepSample) -> float:
        """Return the seconds that a step of batch jobs is expected to take."""
        return self._step_s(sample.num_tokens - sample.num_prompt_tokens) + self._cost.prompts_s(sample)

    def observe(self, sample: StepSample) -> None:
        """Update the estimates with the measurement of a step that did not fail."""
        num_rows = sample.num_tokens - sample.num_prompt_tokens
        rows_s, prompts_s = self._step_s(num_rows), self._cost.prompts_s(sample)
        if prompts_s > rows_s:  # the difference from the expected time is ascribed to the larger part
            self._cost.observe(sample, others_s=rows_s)
        elif num_rows:
            self._learn(num_rows, max(0.0, min(sample.step_s - prompts_s, _MOST * rows_s)))

    def _learn(self, num_rows: int, step_s: float) -> None:
        self._weight = _WEIGHT * self._weight + 1
        self._sum_n = _WEIGHT * self._sum_n + num_rows
        self._sum_s = _WEIGHT * self._sum_s + step_s
        self._sum_nn = _WEIGHT * self._sum_nn + num_rows * num_rows
        self._sum_ns = _WEIGHT * self._sum_ns + num_rows * step_s
        mean_n, mean_s = self._sum_n / self._weight, self._sum_s / self._weight
        variance = self._sum_nn / self._weight - mean_n * mean_n
        most_row_s = mean_s / mean_n
        if variance > (_MIN_SPREAD * mean_n) ** 2:
            self._row_s = (self._sum_ns / self._weight - mean_n * mean_s) / variance
        self._row_s = max(_LEAST_ROW_S, min(max(self._row_s, most_row_s / 1000), most_row_s))
        self._others_s = max(0.0, mean_s - self._row_s * mean_n)
