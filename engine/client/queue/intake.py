"""Intake: tracks the engine's load, limits its queue, and predicts when a request would get its first token."""

import time
from collections.abc import Callable, Sequence

from engine.client.open_streams import OpenStreams
from engine.client.output_stream import OutputStream
from engine.client.queue.first_token import FirstToken, FirstTokenPredictor
from engine.client.queue.queue_limit import QueueLimit
from engine.protocol import (
    AbortReason,
    EngineInfo,
    RequestOutput,
    ScoringRequest,
    ServiceClass,
    StepStats,
    SubmittedRequest,
)


class Intake:
    """Refuses requests when the engine's queue is full, and predicts first tokens from its queue and steps. stats:
    statistics of the engine's last step."""

    def __init__(
        self,
        streams: OpenStreams,
        queue: QueueLimit,
        *,
        shares_prefixes: bool,
        on_first_token: Callable[[FirstToken, float], None],
    ) -> None:
        """shares_prefixes: requests with the same prompt compute it once.

        on_first_token: called with the prediction of a first token, and the seconds that it took.
        """
        self.stats = StepStats()
        self._streams = streams
        self._queue = queue
        self._shares_prefixes = shares_prefixes
        self._predictor = FirstTokenPredictor(streams.backlog, streams.running, on_known=on_first_token)
        self._max_num_seqs = 0

    def on_ready(self, info: EngineInfo) -> None:
        """Adopt the limits and measurements of an engine that is ready."""
        self._max_num_seqs = info.max_num_seqs
        self._predictor.on_ready(info)

    @property
    def num_waiting(self) -> int:
        """Number of waiting requests that are not lines of batches."""
        return max(self.stats.waiting, self._streams.num_clients - self.stats.running)

    def check(self, num_requests: int, num_new_tokens: int) -> None:
        """Raise QueueFull if `num_requests` more requests, with `num_new_tokens` prompt tokens in all, exceed a
        limit."""
        now = time.monotonic()
        num_waiting = self.check_requests(num_requests)
        waiting = self._streams.backlog.num_tokens
        self._queue.check_tokens(num_new_tokens, waiting=waiting, num_waiting=num_waiting, now=now)

    def check_requests(self, num_requests: int) -> int:
        """Return how many requests would wait after `num_requests` more. Raises QueueFull if that is over the limit."""
        # Until the engine reports waiting ones, requests submitted since its last step are assumed to find a slot.
        num_slots = self.stats.running if self.stats.waiting else self._max_num_seqs
        num_waiting = self._streams.num_clients + num_requests - num_slots
        self._queue.check(num_waiting, time.monotonic())
        return num_waiting

    def predict(self, num_new_tokens: int, service_class: ServiceClass) -> FirstToken:
        return self._predictor.predict(num_new_tokens, service_class)

    def drain_s(self) -> float:
        """Estimate the seconds until all waiting requests have ended, at the recent rate."""
        return self._queue.drain_s(self.num_waiting, time.monotonic())

    def open(
        self, request: SubmittedRequest, num_new_tokens: int | None, on_abort: Callable[[AbortReason], None]
    ) -> OutputStream:
        """Add an unsent request, and return its stream. num_new_tokens: prompt tokens, without those that another
        choice of the same API request computes; None means all."""
        is_batch = request.service_class is ServiceClass.BATCH
        if not self._streams.num_clients and not is_batch:
            self._queue.begin(time.monotonic())
        if num_new_tokens is None and not is_batch:
            self._predictor.expect(request.id, len(request.prompt_ids), request.service_class)
        if not self._shares_prefixes and isinstance(request, ScoringRequest):
            num_new_tokens = request.num_tokens_apart
        elif num_new_tokens is None or not self._shares_prefixes:
            num_new_tokens = len(request.prompt_ids)
        return self._streams.open(request, num_new_tokens=num_new_tokens, on_abort=on_abort)

    def start(self, request_ids: list[str]) -> None:
        """Record that the engine starts to compute these requests."""
        self._predictor.on_started(self._streams.start(request_ids))

    def engine_ended(self, reason: str) -> list[SubmittedRequest]:
        """Return the requests that wait for the next engine, and end the others; nothing runs until it is ready."""
        requests = self._streams.engine_ended(reason)
        self.take_step((), StepStats())
        return requests

    def take_step(self, outputs: Sequence[RequestOutput], stats: StepStats) -> None:
        self.stats = stats
        self._predictor.on_step(stats, outputs)
        for output in outputs:
            if output.finish_reason is None:  # most outputs
                self._streams.deliver(output)
                continue
            num_clients = self._streams.num_clients
            num_output = self._streams.deliver(output)
            if num_output is not None:
                self._predictor.on_ended(num_output)
            if self._streams.num_clients < num_clients:
                self._queue.count_end(time.monotonic())
        if not self._streams.num_clients:
            self._queue.rest()
