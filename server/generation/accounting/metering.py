"""ChoiceMeter: measures tokens, times and finish reason of one choice, for usage and metrics."""

import time

from engine.protocol import FinishReason, RequestOutput
from server.metrics.request_record import ChoiceTimes
from server.metrics.values import Metrics

_SCHEDULED = "scheduled"


class ChoiceMeter:
    """Measures one submitted choice. `end` may be called several times and counts once."""

    def __init__(
        self,
        metrics: Metrics,
        arrival_s: float,
        prompt_tokens: int,
        *,
        knows_wait: bool = True,
        trace_id: str | None = None,
        is_timed: bool = True,
    ) -> None:
        """prompt_tokens: 0 except for a prompt's first choice, since usage counts a prompt once. knows_wait: whether a
        choice without output is still queued; false for beam searches, which have output only at the end.
        trace_id: id of the request's trace, for exemplars. is_timed: whether latency metrics are observed; false for
        batches, whose latencies would distort those of interactive requests."""
        self._metrics = metrics
        self._arrival_s = arrival_s
        self._prompt_tokens = prompt_tokens
        self._knows_wait = knows_wait
        self.num_tokens = 0
        self.first_token_s: float | None = None  # time.monotonic()
        self.last_token_s: float | None = None
        self.queue_s: float | None = None  # from the arrival to the first step
        self.reason: FinishReason | None = None  # why it ended
        self._seen_output = False
        self._trace_id = trace_id
        self._is_timed = is_timed
        self._times = ChoiceTimes()

    @property
    def counted_prompt_tokens(self) -> int:
        """Prompt tokens for the metrics: 0 if the choice ended before any output."""
        return self._prompt_tokens if self._seen_output else 0

    def count(self, output: RequestOutput, num_tokens: int) -> None:
        """Record an engine output whose first `num_tokens` belong to the text; the rest are discarded."""
        if not self._seen_output:
            self._seen_output = True
            self._count_start(output)
        if self._trace_id is not None:
            self._note_times(output)
        if len(output.new_ids) > num_tokens:
            self._metrics.add("discarded_tokens_total", len(output.new_ids) - num_tokens)
        if num_tokens:
            self._observe_tokens(num_tokens, output.first_token_s)

    def _note_times(self, output: RequestOutput) -> None:
        times = self._times
        if times.first_token_s is None:
            times.first_token_s = output.first_token_s
        times.ended_s = output.ended_s
        times.preempted_s += output.preempted_s

    def times(self) -> ChoiceTimes:
        """Return the timestamps of a traced choice that has ended."""
        times = self._times
        times.scheduled_s = None if self.queue_s is None else self._arrival_s + self.queue_s
        return times

    def _count_start(self, output: RequestOutput) -> None:
        """Record the choice's first output. If the choice ended in the queue, that output only reports the end."""
        if self._prompt_tokens:
            self._metrics.add("prompt_tokens_total", self._prompt_tokens)
        if output.queue_s is None:
            return
        self.queue_s = output.queue_s
        if self._is_timed:
            self._metrics.count_queue_time(_SCHEDULED, output.queue_s, self._trace_id)
        if self._prompt_tokens:
            self._metrics.count_prompt_sources(self._prompt_tokens, output.num_cached_tokens)

    def _observe_tokens(self, num_tokens: int, first_token_s: float | None) -> None:
        """Observe token latencies. The tokens of one output share the time since the previous output evenly."""
        self._metrics.count_tokens(num_tokens)
        self.num_tokens += num_tokens
        now = time.monotonic()
        if self.last_token_s is None:
            self._observe("time_to_first_token_seconds", now - self._arrival_s)
            num_tokens -= 1
            is_grouped = not self._is_timed and first_token_s is not None  # a batch's line: many tokens an output
            self.first_token_s = first_token_s if is_grouped else now
            self.last_token_s = now
        if self._is_timed and num_tokens:
            gap_s = (now - self.last_token_s) / num_tokens
            for _ in range(num_tokens):
                self._metrics.observe_gap(gap_s)
        self.last_token_s = now

    def end(self, reason: FinishReason) -> None:
        if self.reason is not None:
            return
        self.reason = reason
        now = time.monotonic()
        if self._times.ended_s is None:
            self._times.ended_s = now
        if self._times.first_token_s is None:
            self._times.first_token_s = self.first_token_s
        self._metrics.count_ended(reason, self.num_tokens)
        self._observe("e2e_request_latency_seconds", now - self._arrival_s)
        if self.queue_s is not None:
            self._observe_stretches(self._arrival_s + self.queue_s, now)
        elif self._knows_wait and self._is_timed:
            self._metrics.count_queue_time(reason.value, now - self._arrival_s, self._trace_id)

    def _observe_stretches(self, began_s: float, ended_s: float) -> None:
        """Observe prefill and decode times. A choice without tokens has only a prefill time."""
        first_s, last_s = self.first_token_s, self.last_token_s
        if first_s is None or last_s is None:
            self._observe("request_prefill_time_seconds", max(0.0, ended_s - began_s))
            self._observe("request_inference_time_seconds", max(0.0, ended_s - began_s))
            return
        self._observe("request_prefill_time_seconds", max(0.0, first_s - began_s))
        self._observe("request_decode_time_seconds", last_s - first_s)
        self._observe("request_inference_time_seconds", max(0.0, last_s - began_s))
        if self.num_tokens > 1:
            per_token_s = (last_s - first_s) / (self.num_tokens - 1)
            self._observe("request_time_per_output_token_seconds", per_token_s)

    def _observe(self, name: str, value_s: float) -> None:
        if self._is_timed:
            self._metrics.observe(name, value_s, trace_id=self._trace_id)
