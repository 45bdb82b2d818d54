"""PoolingCalls: open calls to pool texts, across restarts of the engine process."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from engine.client.open_streams import MAX_DEATHS
from engine.client.queue.queue_limit import QueueLimit
from engine.errors import EngineDied
from engine.protocol import FinishReason, PoolingOutput, PoolingRequest, ServiceClass

_SUSPECT = "the engine ended twice while it worked on these texts, which may be the cause; they are not run again"
_MESSAGE_TOKENS = 1 << 15


@dataclass(slots=True, eq=False)
class _Call:
    """The texts of one call, whose outputs are returned together. is_batch: the call is for a line of a batch."""

    answer: asyncio.Future[list[PoolingOutput]]
    requests: Sequence[PoolingRequest]
    is_batch: bool
    num_waiting: int = 0  # texts of the call that wait
    outputs: dict[str, PoolingOutput] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Open:
    """An open text. is_sent: the current engine has the text. is_started: it computes the text."""

    request: PoolingRequest
    call: _Call
    is_sent: bool = False
    is_started: bool = False
    num_deaths: int = 0  # deaths of engines that were computing the text


class PoolingCalls:
    """The texts of open calls by request id, in order of arrival.

    If the engine process ends, unfinished texts are sent to the next process. Texts of batches are in no queue, and
    count neither as waiting nor as running. Invariants: an open text has no output in its call yet; the numbers of
    waiting texts, tokens and calls count clients' texts that are not started.
    """

    def __init__(self, queue: QueueLimit) -> None:
        """queue: limits the waiting calls; a call counts once, however many texts it has."""
        self.num_waiting = 0
        self.num_waiting_tokens = 0
        self.num_batch = 0  # open texts of batches
        self.num_failed = 0  # texts that the end of an engine has failed, in all
        self._num_client_tokens = 0  # of open texts that are not of batches
        self._num_waiting_calls = 0
        self._queue = queue
        self._open: dict[str, _Open] = {}
        self._unsent: dict[str, _Open] = {}

    def __len__(self) -> int:
        return len(self._open)

    @property
    def num_running(self) -> int:
        return self._num_clients - self.num_waiting

    @property
    def num_running_tokens(self) -> int:
        return self._num_client_tokens - self.num_waiting_tokens

    @property
    def _num_clients(self) -> int:
        return len(self._open) - self.num_batch

    def check(self, num_calls: int, num_tokens: int) -> None:
        """Raise QueueFull if `num_calls` more calls of clients, with `num_tokens` tokens in all, exceed a limit of the
        queue."""
        now = time.monotonic()
        num_waiting = self._num_waiting_calls + num_calls
        self._queue.check(num_waiting, now)
        self._queue.check_tokens(num_tokens, waiting=self.num_waiting_tokens, num_waiting=num_waiting, now=now)

    def drain_s(self) -> float:
        """Return how long the waiting calls will take at the recent rate, in seconds."""
        return self._queue.drain_s(self._num_waiting_calls, time.monotonic())

    async def run(
        self, requests: Sequence[PoolingRequest], *, send: Callable[[], None], on_abort: Callable[[list[str]], None]
    ) -> list[PoolingOutput]:
        """Submit texts of one service class; return their outputs in order. Raises QueueFull, and EngineDied if the
        engine has ended for good, or repeatedly while computing one of the texts.

        send: called when `take_unsent` has requests. on_abort: called with the ids of sent requests whose outputs no
        caller waits for any more.
        """
        if not requests:
            return []
        is_batch = requests[0].service_class is ServiceClass.BATCH
        if not is_batch:
            self.check(1, sum(len(request.prompt_ids) for request in requests))
            if not self._num_clients:
                self._queue.begin(time.monotonic())
        call = _Call(asyncio.get_running_loop().create_future(), requests, is_batch)
        for request in requests:
            assert request.id not in self._open
            self._open[request.id] = self._unsent[request.id] = each = _Open(request, call)
            self.num_batch += is_batch
            self._num_client_tokens += 0 if is_batch else len(request.prompt_ids)
            self._wait(each)
        send()
        try:
            return await call.answer
        finally:
            self._forget_call(call, on_abort)

    def _forget_call(self, call: _Call, on_abort: Callable[[list[str]], None]) -> None:
        """Remove a call's remaining open texts, after the caller was canceled or the call ended early."""
        left = [self._open[request.id] for request in call.requests if request.id in self._open]
        for each in left:
            self._forget(each)
        if sent := [each.request.id for each in left if each.is_sent]:
            on_abort(sent)

    def take_unsent(self) -> list[PoolingRequest]:
        """Return all unsent texts in order; they count as sent from now on."""
        unsent, self._unsent = self._unsent, {}
        for each in unsent.values():
            each.is_sent = True
        return [each.request for each in unsent.values()]

    def start(self, request_ids: Sequence[str]) -> None:
        """Record that the engine starts to compute these texts; some may have ended already."""
        for request_id in request_ids:
            if (each := self._open.get(request_id)) is not None and not each.is_started:
                self._wait_no_more(each)
                each.is_started = True

    def deliver(self, output: PoolingOutput) -> None:
        """Store an output for its call, if the call is still open. The call returns with its last output, or when one
        of its texts has waited too long."""
        if (each := self._open.get(output.id)) is None:
            return
        self._forget(each)
        call = each.call
        call.outputs[output.id] = output
        has_waited = output.finish_reason is FinishReason.QUEUE_TIMEOUT  # then the call ends with all its texts
        if (has_waited or len(call.outputs) == len(call.requests)) and not call.answer.done():
            if not call.is_batch:
                self._queue.count_end(time.monotonic())
            call.answer.set_result([call.outputs.get(each.id) or _late(each) for each in call.requests])
        if not self._num_clients:
            self._queue.rest()

    def expire_unsent(self, now: float) -> None:
        """End unsent texts whose deadline has passed. now: time.monotonic()."""
        for each in list(self._unsent.values()):
            if (reason := each.request.time_over(now)) is not None:
                self.deliver(PoolingOutput(id=each.request.id, finish_reason=reason))

    def engine_ended(self) -> list[PoolingRequest]:
        """Mark all texts as unsent for the next engine, and return them, without those of calls that fail.

        A call raises EngineDied if one of its texts was being computed when MAX_DEATHS engines ended. If an engine ends
        before it has started any text, the end counts against all texts that it had received.
        """
        were_sent = [each for each in self._open.values() if each.is_sent]
        for each in [each for each in were_sent if each.is_started] or were_sent:
            each.num_deaths += 1
        for each in were_sent:
            if each.is_started:
                self._wait(each)
            each.is_sent = each.is_started = False
        self._unsent = dict(self._open)
        for each in were_sent:
            if each.num_deaths >= MAX_DEATHS:
                self._fail(each.call, EngineDied(_SUSPECT, num_deaths=each.num_deaths))
        return [each.request for each in self._open.values()]

    def fail_all(self, make_error: Callable[[], EngineDied]) -> None:
        for each in list(self._open.values()):
            self._fail(each.call, make_error())

    def _fail(self, call: _Call, error: EngineDied) -> None:
        for request in call.requests:
            if (each := self._open.get(request.id)) is not None:
                self._forget(each)
                self.num_failed += 1
        if not call.answer.done():
            call.answer.set_exception(error)

    def _forget(self, each: _Open) -> None:
        del self._open[each.request.id]
        self._unsent.pop(each.request.id, None)
        self.num_batch -= each.call.is_batch
        self._num_client_tokens -= 0 if each.call.is_batch else len(each.request.prompt_ids)
        if not each.is_started:
            self._wait_no_more(each)

    def _wait(self, each: _Open) -> None:
        if each.call.is_batch:
            return
        self.num_waiting += 1
        self.num_waiting_tokens += len(each.request.prompt_ids)
        each.call.num_waiting += 1
        self._num_waiting_calls += each.call.num_waiting == 1

    def _wait_no_more(self, each: _Open) -> None:
        if each.call.is_batch:
            return
        self.num_waiting -= 1
        self.num_waiting_tokens -= len(each.request.prompt_ids)
        each.call.num_waiting -= 1
        self._num_waiting_calls -= each.call.num_waiting == 0

    def check_invariants(self) -> None:
        assert self.num_batch == sum(each.call.is_batch for each in self._open.values())
        waiting = [each for each in self._open.values() if not each.is_started and not each.call.is_batch]
        assert self.num_waiting == len(waiting)
        clients = [each for each in self._open.values() if not each.call.is_batch]
        assert self._num_client_tokens == sum(len(each.request.prompt_ids) for each in clients)
        assert self.num_waiting_tokens == sum(len(each.request.prompt_ids) for each in waiting)
        assert self._num_waiting_calls == len({id(each.call) for each in waiting})
        assert self._unsent == {name: each for name, each in self._open.items() if not each.is_sent}
        assert all(name not in each.call.outputs for name, each in self._open.items())


def message_slices(requests: Sequence[PoolingRequest]) -> Iterator[list[PoolingRequest]]:
    """Split requests into messages of some ten thousand tokens, so that encoding one takes less than a millisecond."""
    part: list[PoolingRequest] = []
    num_tokens = 0
    for request in requests:
        part.append(request)
        num_tokens += len(request.prompt_ids)
        if num_tokens >= _MESSAGE_TOKENS:
            yield part
            part, num_tokens = [], 0
    if part:
        yield part


def _late(request: PoolingRequest) -> PoolingOutput:
    return PoolingOutput(id=request.id, finish_reason=FinishReason.QUEUE_TIMEOUT)
