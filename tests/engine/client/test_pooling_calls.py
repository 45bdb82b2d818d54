"""PoolingCalls: every call returns once, with the outputs of its texts in order, whatever engines come and go."""

import asyncio
from collections.abc import Sequence
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.client.pooling_calls import PoolingCalls, message_slices
from engine.client.queue.queue_limit import QueueLimit
from engine.errors import EngineDied, QueueFull
from engine.protocol import FinishReason, PoolingOutput, PoolingParams, PoolingRequest, PoolingTask, ServiceClass
from tests.helpers.fake_pooling import pooling_output

pytestmark = pytest.mark.fast


def _request(name: str, *prompt: int, **fields: Any) -> PoolingRequest:
    params = PoolingParams(task=PoolingTask.EMBED)
    return PoolingRequest(id=name, prompt_ids=list(prompt) or [1], params=params, arrival_s=0.0, **fields)


def _line(name: str, *prompt: int) -> PoolingRequest:
    return _request(name, *prompt, service_class=ServiceClass.BATCH)


def _output(request: PoolingRequest) -> PoolingOutput:
    return pooling_output(request, [[float(request.prompt_ids[0])]])


class Calls:
    """PoolingCalls with an engine that takes what it is sent and does nothing."""

    def __init__(self, max_num_waiting: int = 100, max_num_tokens: int | None = None) -> None:
        self.calls = PoolingCalls(QueueLimit(max_num_waiting, max_num_tokens))
        self.sent: dict[str, PoolingRequest] = {}
        self.aborted: list[str] = []

    def send(self) -> None:
        self.sent |= {request.id: request for request in self.calls.take_unsent()}

    def _abort(self, ids: list[str]) -> None:
        self.aborted += ids
        for name in ids:
            self.sent.pop(name, None)

    async def begin(self, *requests: PoolingRequest, has_engine: bool = True) -> "asyncio.Task[list[PoolingOutput]]":
        send = self.send if has_engine else lambda: None
        task = asyncio.create_task(self.calls.run(requests, send=send, on_abort=self._abort))
        await asyncio.sleep(0)
        return task

    def answer(self, *names: str) -> None:
        for name in names:
            self.calls.start([name])
            self.calls.deliver(_output(self.sent.pop(name)))


@given(st.lists(st.integers(1, 40_000), max_size=30))
def test_messages_have_all_texts_in_order_and_none_has_many(lengths: list[int]) -> None:
    requests = [_request(str(number), *[1] * length) for number, length in enumerate(lengths)]
    parts = list(message_slices(requests))
    assert [each for part in parts for each in part] == requests
    for part in parts:
        assert sum(len(each.prompt_ids) for each in part[:-1]) < 1 << 15
    for part in parts[:-1]:
        assert sum(len(each.prompt_ids) for each in part) >= 1 << 15


async def test_outputs_come_together_and_in_the_order_of_the_texts() -> None:
    calls = Calls()
    task = await calls.begin(_request("a"), _request("b"))
    calls.answer("b")
    await asyncio.sleep(0)
    assert not task.done()
    calls.answer("a")
    assert [output.id for output in await task] == ["a", "b"]
    assert len(calls.calls) == 0


async def test_a_text_that_has_waited_too_long_ends_its_call() -> None:
    calls = Calls()
    task = await calls.begin(_request("a"), _request("b"), _request("c"))
    other = await calls.begin(_request("d"))
    calls.answer("b")
    calls.calls.deliver(PoolingOutput(id="a", finish_reason=FinishReason.QUEUE_TIMEOUT))
    reasons = [output.finish_reason for output in await task]
    assert reasons == [FinishReason.QUEUE_TIMEOUT, FinishReason.STOP, FinishReason.QUEUE_TIMEOUT]
    assert calls.aborted == ["c"]
    calls.answer("d")
    assert [output.id for output in await other] == ["d"]
    calls.calls.check_invariants()


async def test_no_texts_have_no_outputs() -> None:
    assert await (await Calls().begin()) == []


async def test_a_call_that_is_canceled_aborts_what_is_left_of_it() -> None:
    calls = Calls()
    task = await calls.begin(_request("a"), _request("b"))
    calls.answer("a")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert calls.aborted == ["b"]
    assert len(calls.calls) == 0
    calls.calls.deliver(_output(_request("b")))  # it was being computed


async def test_a_call_counts_once_however_many_texts_it_has() -> None:
    calls = Calls(max_num_waiting=2)
    await calls.begin(*(_request(f"a{number}") for number in range(10)))
    await calls.begin(_request("b"))
    with pytest.raises(QueueFull, match=r"3 requests would wait; the limit is 2 \(--max-num-waiting\)"):
        await (await calls.begin(_request("c")))
    calls.calls.start([f"a{number}" for number in range(10)])
    await calls.begin(_request("c"))


async def test_tokens_that_wait_are_bounded() -> None:
    calls = Calls(max_num_tokens=5)
    await calls.begin(_request("a", *range(9)))
    with pytest.raises(QueueFull, match="9 prompt tokens wait, and this request has 1 or more"):
        await (await calls.begin(_request("b")))


async def test_lines_of_batches_stand_in_no_clients_queue() -> None:
    calls = Calls(max_num_waiting=1, max_num_tokens=5)
    for name in "klm":
        await calls.begin(_line(name, *range(9)))
    assert (calls.calls.num_waiting, calls.calls.num_waiting_tokens, calls.calls.num_running) == (0, 0, 0)
    calls.calls.start(["k"])
    assert (calls.calls.num_waiting, calls.calls.num_running, calls.calls.num_batch) == (0, 0, 3)
    client = await calls.begin(_request("a", *range(9)))
    assert (calls.calls.num_waiting, calls.calls.num_waiting_tokens, calls.calls.num_running) == (1, 9, 0)
    line = await calls.begin(_line("n", *range(9)))  # behind a full queue
    calls.answer("a", "n")
    assert [len(await task) for task in (client, line)] == [1, 1]


async def test_the_next_engine_gets_what_the_last_one_did_not_finish() -> None:
    calls = Calls()
    task = await calls.begin(_request("a"), _request("b"))
    calls.answer("a")
    calls.calls.start(["b"])
    assert [request.id for request in calls.calls.engine_ended()] == ["b"]
    calls.send()
    calls.answer("b")
    assert [output.finish_reason for output in await task] == [FinishReason.STOP] * 2


async def test_a_text_on_which_two_engines_died_takes_its_call_and_no_other_with_it() -> None:
    calls = Calls()
    bad, good = await calls.begin(_request("a"), _request("b")), await calls.begin(_request("c"))
    for _ in range(2):
        calls.calls.start(["a"])
        calls.calls.engine_ended()
        calls.send()
    with pytest.raises(EngineDied, match="ended twice while it worked on these texts") as raised:
        await bad
    assert raised.value.num_deaths == 2
    calls.answer("c")
    assert len(await good) == 1


@pytest.mark.parametrize(
    ("limit", "reason"), [("deadline_s", FinishReason.TIMEOUT), ("start_by_s", FinishReason.QUEUE_TIMEOUT)]
)
async def test_time_runs_out_while_there_is_no_engine(limit: str, reason: FinishReason) -> None:
    calls = Calls()
    task = await calls.begin(_request("a", **{limit: 5.0}), has_engine=False)
    calls.calls.expire_unsent(4.9)
    assert len(calls.calls) == 1
    calls.calls.expire_unsent(5.0)
    assert [output.finish_reason for output in await task] == [reason]


class CallsMachine(RuleBasedStateMachine):
    """Random calls, answers, aborts and deaths: no text is lost, and none is answered twice."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()
        self._calls = Calls()
        self._names = count()
        self._tasks: list[tuple[asyncio.Task[list[PoolingOutput]], Sequence[str]]] = []

    def teardown(self) -> None:
        self._calls.calls.fail_all(lambda: EngineDied("the end"))
        for task, names in self._tasks:
            outputs = self._loop.run_until_complete(asyncio.gather(task, return_exceptions=True))[0]
            if not isinstance(outputs, BaseException):
                assert [output.id for output in outputs] == list(names)
        assert len(self._calls.calls) == 0
        self._calls.calls.check_invariants()
        self._loop.close()

    @rule(num_texts=st.integers(1, 4), num_tokens=st.integers(1, 3), has_engine=st.booleans(), is_batch=st.booleans())
    def begin(self, num_texts: int, num_tokens: int, has_engine: bool, is_batch: bool) -> None:
        names = [str(next(self._names)) for _ in range(num_texts)]
        requests = [(_line if is_batch else _request)(name, *range(num_tokens)) for name in names]
        task = self._loop.run_until_complete(self._calls.begin(*requests, has_engine=has_engine))
        self._tasks.append((task, names))

    @rule()
    def send(self) -> None:
        self._calls.send()

    @precondition(lambda self: self._calls.sent)
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        self._calls.calls.start([data.draw(st.sampled_from(sorted(self._calls.sent)))])

    @precondition(lambda self: self._calls.sent)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        self._calls.answer(data.draw(st.sampled_from(sorted(self._calls.sent))))
        self._run()

    @precondition(lambda self: self._tasks)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self._tasks))[0].cancel()
        self._run()

    @rule()
    def engine_ends(self) -> None:
        self._calls.sent.clear()
        self._calls.calls.engine_ended()
        self._run()

    def _run(self) -> None:
        for _ in range(3):
            self._loop.run_until_complete(asyncio.sleep(0))

    @invariant()
    def holds(self) -> None:
        self._calls.calls.check_invariants()


TestCallsMachine = CallsMachine.TestCase
TestCallsMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
