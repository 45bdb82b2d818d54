"""DecisionMeter: counts one decision in metrics, in its record and against its key's limits."""

import itertools
import time
from collections.abc import Mapping, Sequence

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
    ) -> None:
        """Reserve the tokens of state and questions. Raises RateLimited if the key's limits do not allow it."""
        self._metrics = metrics
        self.record = record
        self._account = account
        self._prompt = prompt
        self._terms = terms
        self._num_tokens = prompt.num_tokens
        self.num_cached_tokens = 0
        metrics.observe("decision_questions", len(prompt.questions))
        metrics.observe("request_prompt_tokens", self._num_tokens)
        if record is not None:
            record.num_inputs = len(prompt.questions)
            record.prompt_tokens = self._num_tokens
        self._reserved = None if account is None else account.reserve(self._num_tokens, 0, is_open_ended=False)

    def progress(self) -> GenerationProgress:
        """Return the progress that the dashboard shows."""
        return GenerationProgress(self._num_tokens, self.num_cached_tokens, 0, queue_s=None, first_token_s=None)

    def begin(self, first_id: str) -> None:
        """Record that the decision is submitted to the engine. first_id: id of its first engine request."""
        self._metrics.add("service_tier_requests_total", 1, self._terms.service_tier)
        if self.record is not None:
            self.record.has_started = True
            self.record.sequence_ids.append(first_id)

    def refuse(self) -> None:
        """Record that the engine refused the decision."""
        if self.record is not None:
            self.record.has_started = False
        self._settle(0)

    def end(self, reason: FinishReason) -> None:
        """Record an end without answers. After an abort or a timeout, the key is charged for the whole prompt: how much
        of it was computed is unknown, and clients could avoid all charges by disconnecting, or a short timeout."""
        self._count_end(reason)
        self._settle(self._num_tokens if reason in (FinishReason.ABORT, FinishReason.TIMEOUT) else 0)

    def take(self, firsts: Mapping[int, RequestOutput], num_lookups: int) -> None:
        """Record a finished decision. firsts: the first output of each question. num_lookups: tokens that the engine
        sampled, none of which is used."""
        self.num_cached_tokens = num_cached = _num_cached(self._prompt, firsts)
        self._metrics.add("prompt_tokens_total", self._num_tokens)
        self._metrics.add("discarded_tokens_total", num_lookups)
        self._metrics.count_prompt_sources(self._num_tokens, num_cached)
        queue_s = firsts[0].queue_s
        if queue_s is not None and not self._terms.is_batch:
            self._metrics.count_queue_time("scheduled", queue_s)
        if self.record is not None:
            self.record.counted_prompt_tokens = self._num_tokens
            self.record.cached_tokens = num_cached
            self.record.queue_s = queue_s
        self._count_end(FinishReason.STOP)
        self._settle(self._num_tokens)

    def _count_end(self, reason: FinishReason) -> None:
        self._metrics.add("request_success_total", 1, reason.value)
        if not self._terms.is_batch:
            self._metrics.observe("e2e_request_latency_seconds", time.monotonic() - self._terms.arrival_s)
        if self.record is not None:
            self.record.note_ends([reason])

    def _settle(self, num_tokens: int) -> None:
        if self._account is not None and self._reserved is not None:
            self._account.settle(self._reserved, num_tokens)


def _num_cached(prompt: DecisionPrompt, firsts: Mapping[int, RequestOutput]) -> int:
    """Return how many tokens of the decision were in the prefix cache before it: what the first question found of the
    state, and what each found of its own tokens beyond the beginning that it shares with another question, which may
    have computed it."""
    num_state = len(prompt.state_ids)
    total = min(firsts[0].num_cached_tokens, num_state)
    for number, shared in enumerate(_shared_lengths([question.ids for question in prompt.questions])):
        total += max(0, firsts[number].num_cached_tokens - num_state - shared)
    return total


def _shared_lengths(prompts: Sequence[list[int]]) -> list[int]:
    """Return, for each prompt, the length of the longest prefix that it shares with another one."""
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    shared = [0] * len(prompts)
    for first, second in itertools.pairwise(order):
        pairs = enumerate(zip(prompts[first], prompts[second], strict=False))
        length = next(
            (position for position, (one, other) in pairs if one != other),
            min(len(prompts[first]), len(prompts[second])),
        )
        shared[first] = max(shared[first], length)
        shared[second] = max(shared[second], length)
    return shared
