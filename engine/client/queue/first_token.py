"""FirstTokenPredictor: predicts when a request that arrives now would get its first token.

The first token needs a free slot, and the computation of the request's prompt and of all prompts before it. StepPace
measures how fast prompts are computed and answers grow. The time until a slot is free is estimated from the present
lengths of the running answers and from the final lengths of earlier answers (OutputLengths).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.client.queue.backlog import Backlog
from engine.client.queue.pace import StepPace
from engine.client.queue.recent_requests import Calibration, OutputLengths
from engine.protocol import EngineInfo, RequestOutput, ServiceClass, StepStats

# Classes whose sequences give up their slots to others.
_YIELDING = frozenset({ServiceClass.BACKGROUND, ServiceClass.BATCH, ServiceClass.AUDIT})
_MAX_SAMPLE = 64  # running sequences; if there are more, a sample stands for all
# Tokens from now at which the number of running sequences that will have ended is estimated.
_HORIZONS = (0, 1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 16384, 65536)


@dataclass(frozen=True, slots=True)
class RunningRequest:
    """A request that the engine computes."""

    num_output: int  # tokens so far
    max_tokens: int
    service_class: ServiceClass


@dataclass(frozen=True, slots=True)
class FirstToken:
    """A prediction of a request's first token, in seconds from when the prediction was made."""

    expected_s: float
    likely_s: float  # expected_s times the ratio of real to expected time that 9 of 10 recent requests stayed below
    own_s: float  # part of expected_s: the time for the request's own prompt
    is_guess: bool = False  # the request waits for a slot, and too few answers have ended to say when one is free


class FirstTokenPredictor:
    """Predictor of first tokens, from the engine's steps so far and the requests that wait and run."""

    def __init__(
        self,
        backlog: Backlog,
        running: Callable[[], Sequence[RunningRequest]],
        *,
        on_known: Callable[[FirstToken, float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """backlog: the waiting requests. running: returns the requests that the engine computes. on_known: called with
        the prediction of a request and the seconds that its first token took."""
        self._backlog = backlog
        self._running = running
        self._on_known = on_known
        self._clock = clock
        self._open: dict[str, tuple[FirstToken, float]] = {}  # predictions by request, and when they were made
        self._pace = StepPace()
        self._lengths = OutputLengths()
        self._calibration = Calibration()
        self._info: EngineInfo | None = None
        self._stats = StepStats()
        self._num_ran = 0  # sequences in the last step
        self._stepped_s = 0.0  # when the last step ended
        self._started_tokens = 0  # of prompts that were started since then
        self._curves: dict[bool, tuple[int, list[float]]] = {}  # of the last step

    def on_ready(self, info: EngineInfo) -> None:
        """Start to observe an engine that is ready. After a restart, earlier predictions are dropped: the new engine's
        steps do not test them."""
        self._info = info
        self._open = {}
        self._pace.set_measured(info.prefill_seconds_per_token, info.decode_step_s)
        self.on_step(StepStats(), ())

    def on_started(self, num_prompt_tokens: int) -> None:
        """Count the prompt tokens of requests that the engine starts to compute."""
        self._started_tokens += num_prompt_tokens
        self._curves = {}

    def on_ended(self, num_output: int) -> None:
        self._lengths.add(num_output)

    def on_step(self, stats: StepStats, outputs: Sequence[RequestOutput]) -> None:
        num_new = [len(output.new_ids) for output in outputs if output.new_ids]
        num_computed = stats.prefill_tokens + stats.decode_tokens
        if stats.step_s and num_computed:  # a step of batches alone says nothing of what clients get
            self._pace.observe(num_computed, stats.step_s, len(num_new), sum(num_new))
            self._pace.observe_prefixes(stats.prefix_queries, stats.prefix_hits)
        self._stats = stats
        self._num_ran = stats.running + sum(output.finish_reason is not None for output in outputs)
        self._stepped_s = self._clock()
        self._started_tokens = 0
        self._curves = {}
        for output in outputs if self._open else ():
            if output.new_ids or output.finish_reason is not None:
                self._learn(output)

    def _learn(self, output: RequestOutput) -> None:
        """Compare a first token with its prediction; nothing is learned from a request that ends without a token."""
        prediction, since_s = self._open.pop(output.id, (None, 0.0))
        if prediction is not None and output.new_ids:
            real_s = self._stepped_s - since_s
            if not prediction.is_guess:
                self._calibration.learn(prediction.expected_s, real_s)
            self._on_known(prediction, real_s)

    def expect(self, request_id: str, num_new_tokens: int, service_class: ServiceClass) -> None:
        """Predict a new request's first token, and keep the prediction to compare it with the real time."""
        self._open[request_id] = self.predict(num_new_tokens, service_class), self._clock()

    def predict(self, num_new_tokens: int, service_class: ServiceClass) -> FirstToken:
        """Predict when a request that arrives now would get its first token. num_new_tokens: its prompt tokens."""
        info, pace = self._info, self._pace
        if info is None:
            return FirstToken(0.0, 0.0, 0.0)
        num_running, curve = self._curve(counts_yielding=service_class in _YIELDING)
        num_slots = info.max_num_seqs
        if self._stats.waiting > self._stats.waiting_for_grammar:
            num_slots = min(num_slots, max(1, self._num_ran))  # for want of blocks, perhaps
        num_ends_needed = num_running + self._backlog.num_requests_before(service_class) + 1 - num_slots
        slot_s = self._ends_s(num_ends_needed, num_slots - num_running, num_running, curve, info.max_model_len)
        own = num_new_tokens * pace.uncached
        before = (self._backlog.num_tokens_before(service_class) + self._started_tokens) * pace.uncached
        before += self._stats.pending_prompt_tokens

        def prefill_s(num_tokens: float) -> float:
            return pace.prefill_s(
                num_tokens,
                num_generating=num_running,
                max_step_tokens=info.max_num_batched_tokens,
                is_timed=info.are_steps_timed,
            )

        last_step_s = self._stats.step_s if num_running else 0.0
        gone_s = min(last_step_s, self._clock() - self._stepped_s)  # since the current step began
        own_s = prefill_s(own)
        expected_s = max(own_s, max(slot_s + own_s, prefill_s(before + own)) - gone_s)
        is_guess = slot_s > 0 and not self._lengths.are_known
        factor = 1.0 if is_guess else self._calibration.factor
        return FirstToken(expected_s, expected_s * factor, own_s, is_guess)

    def _ends_s(
        self, num_ends: int, num_beginning: int, num_running: int, curve: list[float], max_tokens: int
    ) -> float:
        """Estimate the seconds until `num_ends` sequences, running ones and their successors, have ended.
        num_beginning: number of free slots, in which sequences begin now. curve: how many of the running sequences will
        have ended after each number of tokens in _HORIZONS."""
        if num_ends <= 0:
            return 0.0
        per_token_s = self._pace.seconds_per_output_token
        if num_beginning > 0:
            ended = self._lengths.probability_of_end
            new = (num_beginning * ended(0, horizon, max_tokens) for horizon in _HORIZONS)
            curve = [sum(each) for each in zip(curve, new, strict=True)]
        num_cycles, num_last = divmod(num_ends - 1, max(1, num_running + max(0, num_beginning)))
        cycles_s = num_cycles * self._lengths.mean(max_tokens) * per_token_s
        return cycles_s + _crossing(curve, num_last + 0.5) * per_token_s

    def _curve(self, *, counts_yielding: bool) -> tuple[int, list[float]]:
        """Return the number of running sequences, and how many of them will have ended after each number of tokens in
        _HORIZONS. counts_yielding: whether to include sequences of service classes that give up their slots to waiting
        requests of other classes."""
        if counts_yielding not in self._curves:
            running = [each for each in self._running() if counts_yielding or each.service_class not in _YIELDING]
            sample = running[:: 1 + len(running) // _MAX_SAMPLE]
            scale = len(running) / max(1, len(sample))
            ended = self._lengths.probability_of_end
            curve = [
                scale * sum(ended(each.num_output, horizon, each.max_tokens) for each in sample)
                for horizon in _HORIZONS
            ]
            self._curves[counts_yielding] = len(running), curve
        return self._curves[counts_yielding]


def _crossing(curve: Sequence[float], level: float) -> float:
    """Return the number of tokens at which the curve over _HORIZONS reaches `level`, by linear interpolation."""
    for index, value in enumerate(curve):
        if value >= level:
            if index == 0:
                return 0.0
            before = curve[index - 1]
            share = (level - before) / (value - before)
            return _HORIZONS[index - 1] + share * (_HORIZONS[index] - _HORIZONS[index - 1])
    return _HORIZONS[-1]
