"""DecisionMeter: counts one decision in metrics, in its record and against its key's limits."""

import time

from engine.protocol import FinishReason, RequestOutput
from server.decisions.prompt import DecisionPrompt
from server.generation.terms import RequestTerms
from server.keys.account import Account
from server.live.requests import GenerationProgress
from server.metrics.request_record import RequestRecord
from server.metrics.values import Metrics


class DecisionMeter:
    """Meter of one decision, created before it is computed. Call `begin`, then `refuse`, `end` or `take`."""

    def __init__(
        self,
        metrics: Metrics,
        record: RequestRecord | None,
        account: Account | None,
        prompt: DecisionPrompt,
        terms: RequestTerms,
        *,
        num_questions: int,
        is_first: bool = True,
    ) -> None:
        """Reserve the tokens of state and questions. Raises RateLimited if the key's limits do not allow it.

        num_questions: without rotations, which `prompt` has. is_first: False if another decision of the same request
        came before.
        """
        self._metrics = metrics
        self.record = record
        self._account = account
        self._terms = terms
        self._is_first = is_first
        self._num_tokens = prompt.num_tokens
        self.num_cached_tokens = 0
        metrics.observe("decision_questions", num_questions)
        metrics.observe("request_prompt_tokens", self._num_tokens)
        if record is not None:
            record.num_inputs += num_questions
            record.prompt_tokens += self._num_tokens
        self._reserved = None if account is None else account.reserve(self._num_tokens, 0, is_open_ended=False)

    def progress(self) -> GenerationProgress:
        """Return the progress that the dashboard shows."""
        return GenerationProgress(self._num_tokens, self.num_cached_tokens, 0, queue_s=None, first_token_s=None)

    def begin(self, request_id: str) -> None:
        """Record that the decision is submitted to the engine. request_id: of the engine request."""
        if self._is_first:
            self._metrics.add("service_tier_requests_total", 1, self._terms.service_tier)
        if self.record is not None:
            self.record.has_started = True
            self.record.sequence_ids.append(request_id)

    def refuse(self) -> None:
        """Record that the engine refused the decision."""
        if self.record is not None:
            self.record.has_started = False
        self._settle(0)

    def end(self, reason: FinishReason) -> None:
        """Record an end without answers. After an abort or a timeout, the key is charged for the whole prompt: how much
        of it was computed is unknown, and clients could avoid all charges by disconnecting, or a short timeout."""
        count_end(self._metrics, self.record, self._terms, reason)
        self._settle(self._num_tokens if reason in (FinishReason.ABORT, FinishReason.TIMEOUT) else 0)

    def take(self, output: RequestOutput) -> None:
        """Record a finished decision, but not the end of its request. output: that of the engine."""
        self.num_cached_tokens = num_cached = output.num_cached_tokens
        self._metrics.add("prompt_tokens_total", self._num_tokens)
        self._metrics.count_prompt_sources(self._num_tokens, num_cached)
        queue_s = output.queue_s
        if self.record is not None and self.record.queue_s is not None:
            queue_s = self.record.queue_s  # another decision of the request was first
        elif queue_s is not None and not self._terms.is_batch:
            self._metrics.count_queue_time("scheduled", queue_s)
        if self.record is not None:
            self.record.counted_prompt_tokens += self._num_tokens
            self.record.cached_tokens += num_cached
            self.record.queue_s = queue_s
        self._settle(self._num_tokens)

    def _settle(self, num_tokens: int) -> None:
        if self._account is not None and self._reserved is not None:
            self._account.settle(self._reserved, num_tokens)


def count_end(
    metrics: Metrics, record: RequestRecord | None, terms: RequestTerms, reason: FinishReason = FinishReason.STOP
) -> None:
    """Record the end of a request, however many decisions it had."""
    metrics.add("request_success_total", 1, reason.value)
    if not terms.is_batch:
        metrics.observe("e2e_request_latency_seconds", time.monotonic() - terms.arrival_s)
    if record is not None:
        record.note_ends([reason])
