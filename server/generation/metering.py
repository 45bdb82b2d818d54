"""One choice's entries in the metrics: what usage counts, the times, and exactly one end."""

import time

from engine.protocol import FinishReason, RequestOutput
from server.metrics import Metrics


class ChoiceMeter:
    """Follows one accepted choice. `end` counts once, however often it is called."""

    __slots__ = (
        "_arrival_s",
        "_ended",
        "_metrics",
        "_prompt_tokens",
        "_seen_output",
        "first_token_s",
        "last_token_s",
        "queue_s",
    )

    def __init__(self, metrics: Metrics, arrival_s: float, prompt_tokens: int) -> None:
        """`prompt_tokens` is 0 for all but a prompt's first choice, since usage counts a prompt once."""
        self._metrics = metrics
        self._arrival_s = arrival_s
        self._prompt_tokens = prompt_tokens
        self.first_token_s: float | None = None  # time.monotonic()
        self.last_token_s: float | None = None
        self.queue_s: float | None = None  # from the arrival to the first step
        self._seen_output = False
        self._ended = False

    def count(self, output: RequestOutput, num_tokens: int) -> None:
        """Record an output of which `num_tokens` belong to the text; the others are discarded."""
        if not self._seen_output:
            self._seen_output = True
            self._metrics.add("prompt_tokens_total", self._prompt_tokens)
            self.queue_s = output.queue_s
            if output.queue_s is not None:
                self._metrics.observe("request_queue_time_seconds", output.queue_s)
        if len(output.new_ids) > num_tokens:
            self._metrics.on_discarded(len(output.new_ids) - num_tokens)
        if num_tokens:
            self._observe_tokens(num_tokens)

    def _observe_tokens(self, num_tokens: int) -> None:
        """Time the tokens; those that came merged into one output share the time since the last one."""
        self._metrics.add("generation_tokens_total", num_tokens)
        now = time.monotonic()
        if self.last_token_s is None:
            self._metrics.observe("time_to_first_token_seconds", now - self._arrival_s)
            num_tokens -= 1
            self.first_token_s = self.last_token_s = now
        for _ in range(num_tokens):
            self._metrics.observe("inter_token_latency_seconds", (now - self.last_token_s) / num_tokens)
        self.last_token_s = now

    def end(self, reason: FinishReason) -> None:
        if self._ended:
            return
        self._ended = True
        self._metrics.count_ended(reason)
        self._metrics.observe("e2e_request_latency_seconds", time.monotonic() - self._arrival_s)
