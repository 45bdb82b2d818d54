"""OpenStreams: open requests and their streams, across restarts of the engine process."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from engine.client.output_stream import OutputStream
from engine.client.queue.backlog import Backlog
from engine.client.queue.first_token import RunningRequest
from engine.errors import EngineDied
from engine.protocol import (
    AbortReason,
    EngineRequest,
    RequestOutput,
    Resumption,
    ScoringRequest,
    ServiceClass,
    SubmittedRequest,
)

MAX_DEATHS = 2  # of engines that were computing a request; it ends with the second death, since it may be the cause

_SUSPECT = "the engine ended twice while it worked on this request, which may be the cause; it is not run again"


@dataclass(slots=True)
class _Open:
    """An open request. is_sent: the current engine has the request. is_started: it computes the request."""

    request: SubmittedRequest
    stream: OutputStream
    num_new_tokens: int
    is_sent: bool = False
    is_started: bool = False
    output_ids: list[int] = field(default_factory=list)  # all tokens that the stream has got, from all engines
    last: RequestOutput | None = None  # the last output with tokens
    was_started: bool = False  # by this engine or an earlier one
    num_prompt_computed: int = 0  # the most that was reported to the stream
    num_predicted: int = 0  # as in the last output
    num_deaths: int = 0  # deaths of engines that were computing the request

    @property
    def is_batch(self) -> bool:
        return self.request.service_class is ServiceClass.BATCH

    @property
    def can_continue(self) -> bool:
        """Whether another engine can continue the output. With mirostat it cannot: the sampler's state depends on the
        logits of all earlier tokens, which are lost."""
        return self.last is None or isinstance(self.request, ScoringRequest) or self.request.sampling.mirostat is None

    def next_request(self) -> SubmittedRequest:
        """Build the request to send to the next engine, which continues after the output so far."""
        if self.last is None or isinstance(self.request, ScoringRequest):
            return msgspec.structs.replace(self.request, start_by_s=None) if self.was_started else self.request
        return msgspec.structs.replace(
            self.request,
            sampling=msgspec.structs.replace(self.request.sampling, prompt_logprobs=None),  # came with the first output
            start_by_s=None,  # an engine has started it
            resumption=Resumption(
                output_ids=list(self.output_ids),
                num_cached_tokens=self.last.num_cached_tokens,
                num_drafted=self.last.num_drafted,
                num_draft_accepted=self.last.num_draft_accepted,
                num_predicted=self.num_predicted,
            ),
        )


class OpenStreams:
    """The streams of open requests by request id, in order of arrival.

    If the engine restarts, the next process continues each started request after the tokens that its stream has
    received, with the same seed, so that its text does not change. Invariants: no stream here has received its terminal
    output or an error; the backlog has the requests that the current engine has not started.
    """

    def __init__(self, *, on_discarded: Callable[[int], None]) -> None:
        """on_discarded: called with the number of tokens that arrived, but are not read since the reader aborted."""
        self.backlog = Backlog()
        self._open: dict[str, _Open] = {}
        self.num_batch = 0  # open requests of batches
        self.num_failed = 0  # requests that the end of an engine has failed, in all
        self._on_discarded = on_discarded

    def __len__(self) -> int:
        return len(self._open)

    @property
    def num_clients(self) -> int:
        """Number of open requests that are not lines of batches."""
        return len(self._open) - self.num_batch

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._open

    def open(
        self, request: SubmittedRequest, *, num_new_tokens: int, on_abort: Callable[[AbortReason], None]
    ) -> OutputStream:
        """Add an unsent request, and return its stream. A request without a seed gets one, which stays the same if the
        engine restarts. num_new_tokens: prompt tokens, without those that another choice of the same API request
        computes.
        """
        if isinstance(request, EngineRequest) and request.sampling.seed is None:
            request = msgspec.structs.replace(request, drawn_seed=secrets.randbits(63))
        stream = OutputStream(on_abort=on_abort, on_discarded=self._on_discarded)
        self._open[request.id] = each = _Open(request, stream, num_new_tokens)
        self.num_batch += each.is_batch
        self._wait(each)
        return stream

    def _wait(self, each: _Open) -> None:
        num_tokens = each.num_new_tokens + len(each.output_ids)
        self.backlog.add(each.request.id, each.request.service_class, num_tokens)

    def _forget(self, each: _Open) -> None:
        del self._open[each.request.id]
        self.num_batch -= each.is_batch
        self.backlog.remove(each.request.id)

    def running(self) -> list[RunningRequest]:
        """Return the clients' requests that the engine computes."""
        return [
            RunningRequest(len(each.output_ids), _max_tokens(each.request), each.request.service_class)
            for name, each in self._open.items()
            if name not in self.backlog and not each.is_batch
        ]

    def take_unsent(self) -> list[SubmittedRequest]:
        """Return all unsent requests in order; they count as sent from now on."""
        unsent = [each for each in self._open.values() if not each.is_sent]
        for each in unsent:
            each.is_sent = True
        return [each.next_request() for each in unsent]

    def start(self, request_ids: list[str]) -> int:
        """Record that the engine starts these requests; unknown ids are ignored. Return the number of new prompt tokens
        of the clients' requests among them."""
        num_tokens = 0
        for request_id in request_ids:
            if (each := self._open.get(request_id)) is not None:
                each.is_started = each.was_started = True
                self.backlog.remove(request_id)
                num_tokens += 0 if each.is_batch else each.num_new_tokens
        return num_tokens

    def deliver(self, output: RequestOutput) -> int | None:
        """Put an output into its request's stream; a terminal output closes the stream. Return the request's number of
        output tokens if it ends now, was started, generates, and is not a line of a batch; else None."""
        each = self._open.get(output.id)
        if each is None:
            raise AssertionError(f"output for {output.id}, which is not open")
        if output.new_ids:
            each.output_ids += output.new_ids
            each.last = output
            if not each.is_started:
                each.is_started = each.was_started = True
                self.backlog.remove(output.id)
            if output.num_predicted:
                each.num_predicted = output.num_predicted[-1]
        if output.num_prompt_computed is not None:
            is_further = output.num_prompt_computed > each.num_prompt_computed
            each.num_prompt_computed = max(each.num_prompt_computed, output.num_prompt_computed)
            if not is_further and not output.new_ids and output.finish_reason is None:
                return None  # an earlier engine had computed as much
        if output.finish_reason is None:
            each.stream.put(output)
            return None
        was_running = output.id not in self.backlog
        self._forget(each)
        each.stream.put(output)
        is_generating = was_running and not isinstance(each.request, ScoringRequest)
        return len(each.output_ids) if is_generating and not each.is_batch else None

    def drop_unsent(self, request_id: str) -> bool:
        """Remove an aborted request that no engine has; return False if an engine has it, or it has ended."""
        each = self._open.get(request_id)
        if each is None or each.is_sent:
            return False
        self._forget(each)
        return True

    def expire_unsent(self, now: float) -> None:
        """End unsent requests whose deadline has passed. now: time.monotonic()."""
        for each in list(self._open.values()):
            reason = None if each.is_sent else each.next_request().time_over(now)
            if reason is not None:
                num_cached = 0 if each.last is None else each.last.num_cached_tokens
                self.deliver(RequestOutput(id=each.request.id, finish_reason=reason, num_cached_tokens=num_cached))

    def engine_ended(self, reason: str) -> list[SubmittedRequest]:
        """Mark all requests as unsent for the next engine, and return them, without those that fail.

        A stream raises EngineDied if its output cannot be continued (with `reason` as message), or if its request was
        being computed when MAX_DEATHS engines ended. If an engine ends before it has started any request, the end
        counts against all requests that it had received.
        """
        were_sent = [each for each in self._open.values() if each.is_sent]
        suspects = [each for each in were_sent if each.is_started] or were_sent
        for each in suspects:
            each.num_deaths += 1
        for each in were_sent:
            each.is_sent = each.is_started = False
            if each.stream.is_aborted:
                self._forget(each)
            elif not each.can_continue:
                self._fail(each, reason)
            elif each.num_deaths >= MAX_DEATHS:
                self._fail(each, _SUSPECT)
            else:
                self._wait(each)
        return [each.request for each in self._open.values()]

    def _fail(self, each: _Open, reason: str) -> None:
        self._forget(each)
        self.num_failed += 1
        each.stream.fail(EngineDied(reason, num_deaths=each.num_deaths))

    def fail_all(self, make_error: Callable[[], EngineDied]) -> None:
        for each in list(self._open.values()):
            self._forget(each)
            each.stream.fail(make_error())

    def check(self) -> None:
        self.backlog.check()
        assert self.num_batch == sum(each.is_batch for each in self._open.values())
        waiting = {name for name, each in self._open.items() if not each.is_started}
        assert {name for name in self._open if name in self.backlog} == waiting


def _max_tokens(request: SubmittedRequest) -> int:
    return 1 if isinstance(request, ScoringRequest) else request.sampling.max_tokens
