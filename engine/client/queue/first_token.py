"""FirstTokenPredictor: when a request that comes now would have its first token.

It has it when a place is free and the prompts before it and its own are computed. How fast prompts are computed and
answers grow is measured (StepPace); when a place will be free follows from how long the answers that run are already,
and how long others were (OutputLengths).
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.client.queue.backlog import Backlog
from engine.client.queue.pace import StepPace
from engine.client.queue.recent_requests import Calibration, OutputLengths
from engine.protocol import EngineInfo, RequestOutput, ServiceClass, StepStats

_YIELDING = frozenset(
    {ServiceClass.BACKGROUND, ServiceClass.BATCH, ServiceClass.AUDIT}
)  # they give up their places to others
_MAX_LOOKED_AT = 64  # running sequences; of more, some stand for all
# Tokens from now for which it is estimated how many of the running sequences will have ended.
_HORIZONS = (0, 1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 16384, 65536)


@dataclass(frozen=True, slots=True)
class Begun:
    """A request that the engine computes."""

    num_output: int  # tokens so far
    max_tokens: int
    service_class: ServiceClass


@dataclass(frozen=True, slots=True)
class FirstToken:
    """When it comes, in seconds from when that was asked."""

    expected_s: float
    likely_s: float  # nine of ten of the last requests came no later, against what was expected of them
    own_s: float  # of what is expected, what its own prompt takes
    is_guess: bool = False  # it waits for a place, and too few answers have ended to say when there is one


class FirstTokenPredictor:
    """Told of each step. `predict` looks at the requests as they are at the time."""

    def __init__(
        self,
        backlog: Backlog,
        begun: Callable[[], Sequence[Begun]],
        *,
        on_known: Callable[[FirstToken, float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """backlog: requests that wait. begun: those that run. on_known: called with what was predicted of a request and
        how long it took."""
        self._backlog = backlog
        self._begun = begun
        self._on_known = on_known
        self._clock = clock
        self._open: dict[str, tuple[FirstToken, float]] = {}  # predictions by request, and when they were made
        self._pace = StepPace()
        self._lengths = OutputLengths()
        self._calibration = Calibration()
        self._info: EngineInfo | None = None
        self._stats = StepStats()
        self._num_ran = 0  # in the last step
        self._stepped_s = 0.0  # when the last step ended
        self._started_tokens = 0  # of prompts that were begun since then
        self._curves: dict[bool, tuple[int, list[float]]] = {}  # of the last step

    def begin(self, info: EngineInfo) -> None:
        """An engine is ready, perhaps after another one, whose steps say nothing of what was predicted."""
        self._info = info
        self._open = {}
        self._pace.begin(info.prefill_seconds_per_token, info.decode_step_s)
        self.on_step(StepStats(), ())

    def on_started(self, num_prompt_tokens: int) -> None:
        """The engine begins a request."""
        self._started_tokens += num_prompt_tokens
        self._curves = {}

    def on_ended(self, num_output: int) -> None:
        """A request that was begun ended with `num_output` tokens."""
        self._lengths.add(num_output)

    def on_step(self, stats: StepStats, outputs: Sequence[RequestOutput]) -> None:
        """A step, which gave some requests tokens."""
        num_new = [len(output.new_ids) for output in outputs if output.new_ids]
        num_computed = stats.prefill_tokens + stats.decode_tokens
        if stats.step_s and num_computed:  # a step of a batch alone says nothing of what clients get
            self._pace.observe(num_computed, stats.step_s, len(num_new), sum(num_new))
            self._pace.observe_prefixes(stats.prefix_queries, stats.prefix_hits)
        self._stats = stats
        self._num_ran = stats.running + sum(output.finish_reason is not None for output in outputs)
        self._stepped_s = self._clock()
        self._started_tokens = 0
        self._curves = {}
        for output in outputs:
            if output.new_ids or output.finish_reason is not None:
                self._learn(output)

    def _learn(self, output: RequestOutput) -> None:
        """From a first token; a request that ends without one says nothing."""
        prediction, since_s = self._open.pop(output.id, (None, 0.0))
        if prediction is not None and output.new_ids:
            real_s = self._stepped_s - since_s
            if not prediction.is_guess:
                self._calibration.learn(prediction.expected_s, real_s)
            self._on_known(prediction, real_s)

    def expect(self, request_id: str, num_new_tokens: int, service_class: ServiceClass) -> None:
        """A request comes, of which it will be seen what became of the prediction."""
        self._open[request_id] = self.predict(num_new_tokens, service_class), self._clock()

    def predict(self, num_new_tokens: int, service_class: ServiceClass) -> FirstToken:
        """Of a request that comes now, with `num_new_tokens` in its prompt."""
        info, pace = self._info, self._pace
        if info is None:
            return FirstToken(0.0, 0.0, 0.0)
        num_running, curve = self._curve(counts_yielding=service_class in _YIELDING)
        num_places = info.max_num_seqs
        if self._stats.waiting > self._stats.waiting_for_grammar:
            num_places = min(num_places, max(1, self._num_ran))  # for want of blocks, perhaps
        num_ends_needed = num_running + self._backlog.num_requests_before(service_class) + 1 - num_places
        place_s = self._ends_s(num_ends_needed, num_places - num_running, num_running, curve, info.max_model_len)
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
        gone_s = min(last_step_s, self._clock() - self._stepped_s)  # of the step that the engine is in
        own_s = prefill_s(own)
        expected_s = max(own_s, max(place_s + own_s, prefill_s(before + own)) - gone_s)
        is_guess = place_s > 0 and not self._lengths.are_known
        factor = 1.0 if is_guess else self._calibration.factor
        return FirstToken(expected_s, expected_s * factor, own_s, is_guess)

    def _ends_s(
        self, num_ends: int, num_beginning: int, num_running: int, curve: list[float], max_tokens: int
    ) -> float:
        """How long it takes until `num_ends` of the running sequences, and of those that follow them, have ended.
        num_beginning: for which there are places still."""
        if num_ends <= 0:
            return 0.0
        per_token_s = self._pace.seconds_per_output_token
        if num_beginning > 0:
            ended = self._lengths.probability_of_end
            begun = (num_beginning * ended(0, horizon, max_tokens) for horizon in _HORIZONS)
            curve = [sum(each) for each in zip(curve, begun, strict=True)]
        num_cycles, num_last = divmod(num_ends - 1, max(1, num_running + max(0, num_beginning)))
        cycles_s = num_cycles * self._lengths.mean(max_tokens) * per_token_s
        return cycles_s + _crossing(curve, num_last + 0.5) * per_token_s

    def _curve(self, *, counts_yielding: bool) -> tuple[int, list[float]]:
        """How many sequences have places that they do not give up, and how many of them will have ended at each
        horizon."""
        if counts_yielding not in self._curves:
            begun = [each for each in self._begun() if counts_yielding or each.service_class not in _YIELDING]
            some = begun[:: 1 + len(begun) // _MAX_LOOKED_AT]
            scale = len(begun) / max(1, len(some))
            ended = self._lengths.probability_of_end
            curve = [
                scale * sum(ended(each.num_output, horizon, each.max_tokens) for each in some) for horizon in _HORIZONS
            ]
            self._curves[counts_yielding] = len(begun), curve
        return self._curves[counts_yielding]


def _crossing(curve: Sequence[float], level: float) -> float:
    """The horizon at which the curve reaches `level`, between two by a straight line."""
    for index, value in enumerate(curve):
        if value >= level:
            if index == 0:
                return 0.0
            before = curve[index - 1]
            share = (level - before) / (value - before)
            return _HORIZONS[index - 1] + share * (_HORIZONS[index] - _HORIZONS[index - 1])
    return _HORIZONS[-1]
