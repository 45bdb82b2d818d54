"""PoolingMeter: counts one request to a pooling model in metrics, in its record and against its key's limits."""

import time
from collections import Counter
from collections.abc import Sequence

from engine.protocol import FinishReason, PoolingOutput
from server.keys.account import Account
from server.live.requests import GenerationProgress
from server.metrics.request_record import RequestRecord
from server.metrics.values import Metrics
from server.pooling.encoding import EncodedInputs


class PoolingMeter:
    """Meter of one pooling request, created before it is computed. Call `begin`, then `refuse`, `end` or `take`."""

    def __init__(
        self, metrics: Metrics, record: RequestRecord | None, account: Account | None, inputs: EncodedInputs
    ) -> None:
        """Reserve the tokens of the inputs. Raises RateLimited if the key's limits do not allow it."""
        self._metrics = metrics
        self.record = record
        self._account = account
        self._arrival_s = inputs.terms.arrival_s
        self._task = inputs.params.task.value
        self._tier = inputs.terms.service_tier
        self._lengths = [len(each.ids) for each in inputs.items]
        self._num_tokens = sum(self._lengths)
        metrics.observe("pooling_request_inputs", len(self._lengths))
        metrics.observe("pooling_request_tokens", self._num_tokens)  # not for each text, which would take too long
        if record is not None:
            record.num_inputs += len(self._lengths)
            record.prompt_tokens += self._num_tokens
        self._reserved = None if account is None else account.reserve(self._num_tokens, 0, is_open_ended=False)

    def progress(self) -> GenerationProgress:
        """Return the progress that the dashboard shows."""
        return GenerationProgress(self._num_tokens, 0, 0, queue_s=None, first_token_s=None)

    def begin(self) -> None:
        """Record that the request is submitted to the engine."""
        self._metrics.add("service_tier_requests_total", 1, self._tier)
        if self.record is not None:
            self.record.has_started = True

    def refuse(self) -> None:
        """Record that the engine refused the request."""
        if self.record is not None:
            self.record.has_started = False
        self._settle(0)

    def end(self, reason: FinishReason) -> None:
        """Record an end without outputs. After an abort or a timeout, the key is charged for all inputs: the number
        computed is unknown, and clients could avoid all charges by disconnecting, or a short timeout."""
        self._count_ends({reason: len(self._lengths)})
        self._settle(self._num_tokens if reason in (FinishReason.ABORT, FinishReason.TIMEOUT) else 0)

    def take(self, outputs: Sequence[PoolingOutput]) -> None:
        """Record the outputs of a computed request."""
        computed = sum(
            length
            for length, output in zip(self._lengths, outputs, strict=True)
            if output.finish_reason is FinishReason.STOP
        )
        self._metrics.add("prompt_tokens_total", computed)
        queue_s = min((output.queue_s for output in outputs if output.queue_s is not None), default=None)
        if queue_s is not None:
            self._metrics.count_queue_time("scheduled", queue_s)
        if self.record is not None:
            self.record.counted_prompt_tokens += computed
            self.record.queue_s = queue_s
        self._count_ends(Counter(output.finish_reason for output in outputs))
        self._settle(computed)

    def _count_ends(self, ends: Counter[FinishReason] | dict[FinishReason, int]) -> None:
        for reason, count in ends.items():
            self._metrics.add("pooling_inputs_total", count, self._task, reason)
        self._metrics.observe("e2e_request_latency_seconds", time.monotonic() - self._arrival_s)
        if self.record is not None:
            self.record.note_ends(list(ends))

    def _settle(self, num_tokens: int) -> None:
        if self._account is not None and self._reserved is not None:
            self._account.settle(self._reserved, num_tokens)
