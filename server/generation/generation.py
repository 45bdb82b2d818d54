"""Generation: submits prompts to the engine, and streams the deltas of all choices."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from types import TracebackType
from typing import Self

from engine.client.interface import RequestStream
from engine.client.queue.first_token import FirstToken
from engine.errors import EngineDied, EngineStopped
from engine.protocol import AbortReason, FinishReason, RequestOutput
from server.errors import TTFT_HEADER
from server.generation.accounting.metering import ChoiceMeter
from server.generation.accounting.reservation import Reservation
from server.generation.accounting.totals import (
    RequestTimes,
    count_longest,
    count_request,
    generation_progress,
    note_end,
    request_times,
    usage_of,
)
from server.generation.beams.requests import BeamRequests
from server.generation.choice import Choice, ChoiceDelta
from server.generation.choice_requests import engine_request, new_choice
from server.generation.params.generation_params import GenerationParams
from server.generation.slo import check_first_token
from server.generation.terms import waited_too_long
from server.live.requests import GenerationProgress
from server.metrics.request_record import current_record
from server.schemas.answers import Usage
from server.served.model import ServedModel


class Generation:
    """The choices of one request: an async context manager, and an async iterator of their deltas.

    Entering submits all choices or none. Leaving aborts those that have not ended. Choices are numbered as in OpenAI's
    responses: those of the first prompt come first.
    """

    def __init__(self, model: ServedModel, params: GenerationParams) -> None:
        self._model = model
        self.params = params
        self.record = current_record()
        self.has_metrics = model.config.enable_per_request_metrics  # reported for one choice
        trace_id = None if self.record is None else self.record.trace_id
        self.choices = [new_choice(model, params, index, trace_id) for index in range(len(params.prompts) * params.n)]
        self._streams: list[RequestStream] = []
        self._reservation: Reservation | None = None
        self._predicted: FirstToken | None = None
        self._num_unended = len(self.choices)
        self._withheld: list[ChoiceDelta] = []  # ends of choices without a token, which may become an error
        self._beams: BeamRequests | None = None
        if params.beams is not None:
            self._beams = BeamRequests(model, params, params.beams)

    @property
    def headers(self) -> dict[str, str]:
        """The header with the predicted time to first token, or none. Known once the context is entered."""
        return {} if self._predicted is None else {TTFT_HEADER: f"{self._predicted.expected_s:.3f}"}

    def best(self, num: int) -> list[int]:
        """Return the numbers of each prompt's `num` best choices by mean log probability. All must have ended."""
        n = self.params.n
        return [
            choice.index
            for first in range(0, len(self.choices), n)
            for choice in sorted(self.choices[first : first + n], key=_logprob_per_token, reverse=True)[:num]
        ]

    @property
    def num_cached_tokens(self) -> int:
        """The number of prompt tokens found in the prefix cache."""
        return sum(choice.num_cached_tokens for choice in self.choices[:: self.params.n])

    def siblings(self, index: int) -> range:
        """Return the numbers of all choices with the same prompt as choice number `index`."""
        first = index - index % self.params.n
        return range(first, first + self.params.n)

    @property
    def num_prompt_computed(self) -> int:
        """The number of prompt tokens computed or cached; all of them unless the request reports progress."""
        return sum(choice.num_prompt_computed for choice in self.choices[:: self.params.n])

    def progress(self) -> GenerationProgress:
        """Return the progress for the dashboard."""
        prompt_tokens = sum(len(prompt.ids) for prompt in self.params.prompts)
        return generation_progress(self.params.terms.arrival_s, prompt_tokens, self.num_cached_tokens, self._meters)

    def times(self) -> RequestTimes:
        """Return the durations of the request's phases, up to the latest token."""
        return request_times(self.params.terms.arrival_s, self._meters)

    async def __aenter__(self) -> Self:
        """Submit all choices to the engine, or none and raise RateLimited, Shed or EngineUnavailable."""
        self._model.check_engine()  # a drain that started while the prompt was made waits for this request
        self._predicted = check_first_token(self._model, self.params.terms, len(self.params.prompts[0].ids))
        count_request(self._model.metrics, self.params, self.record)
        self._reservation = Reservation(self.params, self._model.client.info.max_model_len)
        try:
            if self._beams is None:
                self._submit_choices()
            else:
                self._beams.check_capacity()
        except BaseException:
            self._reservation.settle(())
            raise
        for _ in self.choices:
            self._model.metrics.add("service_tier_requests_total", 1, self.params.terms.service_tier)
        if self.record is not None:
            self.record.hold()
            self.record.has_started = True
        self._model.live.requests.begin(self)
        return self

    def _submit_choices(self) -> None:
        num_tokens = sum(len(prompt.ids) for prompt in self.params.prompts)
        self._model.client.check_capacity(len(self.choices), num_tokens, self.params.terms.service_class)
        group = uuid.uuid4().hex
        for choice in self.choices:  # no await in this loop, so the capacity just checked is still free
            request_id = f"{group}-{choice.index}"
            request = engine_request(self.params, choice.index, request_id, self._model.config.stream_interval)
            shared = 0 if choice.index % self.params.n else None  # the first choice computes the prompt for all
            self._streams.append(self._model.submit(request, num_new_tokens=shared))
            if self.record is not None:
                self.record.sequence_ids.append(request.id)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._model.live.requests.end(self)
        for stream in self._streams:
            stream.abort(AbortReason.CLIENT_GONE)  # no effect on a stream that has ended
        meters = self._meters
        for meter in meters:
            meter.end(FinishReason.ABORT)
        if self._reservation is not None:
            self._reservation.settle(meters)
        count_longest(self._model.metrics, meters, self.params.n)
        if self.record is not None:
            note_end(self.record, meters, self.num_cached_tokens)
            self.record.release()

    async def __aiter__(self) -> AsyncIterator[ChoiceDelta]:
        """Yield the deltas of all choices as they arrive. Raises EngineDied, RequestFailed, EngineUnavailable or
        QueueTimeout, and AnswerTimeout if the time limit passes before any choice has a token."""
        try:
            if len(self._streams) == 1:  # the common case, without another generator for each token
                async for output in self._streams[0]:
                    for delta in self._read(0, output):
                        yield delta
                    if not self._num_unended:
                        break
            else:
                async with contextlib.aclosing(self._outputs()) as outputs:
                    async for index, output in outputs:
                        for delta in self._read(index, output):
                            yield delta
                        if not self._num_unended:
                            break
            if self._withheld:
                raise self.params.terms.out_of_time()
        except EngineDied as error:
            reason = FinishReason.ABORT if isinstance(error, EngineStopped) else FinishReason.ERROR
            for choice in self.choices:
                choice.meter.end(reason)
            raise

    def _read(self, index: int, output: RequestOutput) -> Sequence[ChoiceDelta]:
        """Return the deltas to yield after an output of choice number `index`. Raises QueueTimeout."""
        if output.finish_reason is FinishReason.QUEUE_TIMEOUT:
            self.choices[index].meter.end(FinishReason.QUEUE_TIMEOUT)
            raise waited_too_long(self.params.terms, self._model.client)
        delta = self.choices[index].push(output)
        if delta.finish is None and not self._withheld:  # the common case
            return (delta,)
        if delta.finish is not None:
            self._num_unended -= 1
            if self._beams is None:
                self._streams[index].abort(AbortReason.STOP_STRING)  # no effect if the engine ended it
        self._withheld.append(delta)
        if self._is_late(delta):
            return ()
        deltas, self._withheld = self._withheld, []
        return deltas

    @property
    def _meters(self) -> list[ChoiceMeter]:
        return [choice.meter for choice in self.choices]

    def _outputs(self) -> AsyncGenerator[tuple[int, RequestOutput]]:
        return interleave(self._streams) if self._beams is None else self._beams.outputs()

    def _is_late(self, delta: ChoiceDelta) -> bool:
        """Whether the delta ends its choice by timeout before any choice has a token."""
        return (
            delta.finish is not None and delta.finish.is_timeout and not any(each.num_tokens for each in self.choices)
        )

    def usage(self) -> Usage:
        """Return the token usage so far."""
        return usage_of(self.params, self.choices, self.num_cached_tokens)


def _logprob_per_token(choice: Choice) -> float:
    return choice.total_logprob / max(1, choice.num_tokens)


async def interleave(streams: list[RequestStream]) -> AsyncGenerator[tuple[int, RequestOutput]]:
    """Yield (stream index, output) as outputs arrive. A stream is read ahead by at most one output."""
    iterators = [aiter(stream) for stream in streams]
    pending = {asyncio.ensure_future(anext(iterator)): index for index, iterator in enumerate(iterators)}
    try:
        while pending:
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=pending.__getitem__):
                index = pending.pop(task)
                try:
                    output = task.result()
                except StopAsyncIteration:
                    continue
                yield index, output
                pending[asyncio.ensure_future(anext(iterators[index]))] = index
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
