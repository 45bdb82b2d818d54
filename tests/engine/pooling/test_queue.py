"""PoolingQueue: texts by class, tenants in turns, priorities where they are honored; none is lost, none comes twice."""

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.pooling.queue import PoolingQueue
from engine.protocol import FinishReason, PoolingParams, PoolingRequest, PoolingTask, ServiceClass

pytestmark = pytest.mark.fast

EMBED = PoolingParams(task=PoolingTask.EMBED)
CLIENTS = (ServiceClass.URGENT, ServiceClass.INTERACTIVE, ServiceClass.BACKGROUND, ServiceClass.BATCH)


def _text(name: str, num_tokens: int = 1, **fields: object) -> PoolingRequest:
    return PoolingRequest(id=name, prompt_ids=[1] * num_tokens, **{"params": EMBED, "arrival_s": 0.0, **fields})  # type: ignore[arg-type]


def _queue(*texts: PoolingRequest, honors_priority: bool = False) -> PoolingQueue:
    queue = PoolingQueue(honors_priority=honors_priority)
    for text in texts:
        queue.add(text)
    return queue


def _taken(queue: PoolingQueue, max_tokens: int = 1000, max_texts: int = 1000) -> list[str]:
    return [text.id for text in queue.take(max_tokens, max_texts)]


def test_a_batch_has_the_first_texts_that_fit_and_at_least_one() -> None:
    queue = _queue(_text("a", 50), _text("b", 4), _text("c", 4), _text("d", 4))
    assert [_taken(queue, 8), _taken(queue, 8), _taken(queue, 8)] == [["a"], ["b", "c"], ["d"]]


def test_a_batch_has_no_more_texts_than_allowed() -> None:
    queue = _queue(*(_text(name) for name in "abc"))
    assert [_taken(queue, max_texts=2), _taken(queue, max_texts=2)] == [["a", "b"], ["c"]]


def test_a_batch_has_no_more_vectors_of_single_tokens_than_allowed() -> None:
    each = PoolingParams(task=PoolingTask.TOKEN_EMBED)
    queue = _queue(*(_text(name, 10, params=each) for name in "abc"), _text("d", 90), _text("e", 30, params=each))
    batches = [[text.id for text in queue.take(1000, 1000, 20)] for _ in range(3)]
    assert batches == [["a", "b"], ["c", "d"], ["e"]]


def test_classes_come_in_their_order_and_batch_lines_alone() -> None:
    queue = _queue(*(_text(each.value, service_class=each) for each in reversed(CLIENTS)))
    assert queue.next_class() is ServiceClass.URGENT
    assert [_taken(queue), _taken(queue)] == [["urgent", "interactive", "background"], ["batch"]]


def test_a_tenant_with_many_texts_lets_another_one_in_between() -> None:
    queue = _queue(*(_text(f"a{number}", 10, tenant="a") for number in range(4)), _text("b0", 10, tenant="b"))
    assert _taken(queue, max_texts=2) == ["a0", "b0"]


def test_a_tenant_of_twice_the_weight_has_twice_the_turns() -> None:
    texts = [_text(f"a{number}", 10, tenant="a", tenant_weight=2.0) for number in range(6)]
    texts += [_text(f"b{number}", 10, tenant="b") for number in range(6)]
    assert sorted(name[0] for name in _taken(_queue(*texts), max_texts=6)) == ["a"] * 4 + ["b"] * 2


def test_priorities_come_before_turns_where_they_are_honored() -> None:
    texts = _text("late", priority=5), _text("soon", priority=-1)
    assert _taken(_queue(*texts, honors_priority=True)) == ["soon", "late"]
    assert _taken(_queue(*texts)) == ["late", "soon"]


def test_texts_whose_time_is_over_leave_with_the_reason() -> None:
    queue = _queue(_text("a", deadline_s=5.0), _text("b", start_by_s=3.0), _text("c"))
    assert queue.next_limit_s == 3.0
    assert queue.take_expired(2.9) == []
    expired = [(text.id, reason) for text, reason in queue.take_expired(5.0)]
    assert expired == [("b", FinishReason.QUEUE_TIMEOUT), ("a", FinishReason.TIMEOUT)]
    assert (_taken(queue), queue.next_limit_s) == (["c"], None)


def test_what_is_put_back_comes_before_what_came_later() -> None:
    queue = _queue(_text("a"), _text("b"))
    taken = queue.take(1000, 1000)
    queue.add(_text("c"))
    queue.put_back(taken)
    assert _taken(queue) == ["a", "b", "c"]


class QueueMachine(RuleBasedStateMachine):
    """Random traffic: what waits is what was added and has not left."""

    def __init__(self) -> None:
        super().__init__()
        self._queue = PoolingQueue(honors_priority=True)
        self._names = itertools.count()
        self._waiting: dict[str, PoolingRequest] = {}

    @rule(
        num_tokens=st.integers(1, 9),
        service_class=st.sampled_from(CLIENTS),
        tenant=st.sampled_from("xyz"),
        priority=st.integers(-1, 1),
        deadline_s=st.none() | st.floats(0, 10),
    )
    def add(self, num_tokens: int, **fields: object) -> None:
        text = _text(str(next(self._names)), num_tokens, **fields)
        self._queue.add(text)
        self._waiting[text.id] = text

    @rule(max_tokens=st.integers(1, 20), max_texts=st.integers(1, 5), returns=st.booleans())
    def take(self, max_tokens: int, max_texts: int, returns: bool) -> None:
        taken = self._queue.take(max_tokens, max_texts)
        assert bool(taken) == bool(self._waiting)
        assert len(taken) <= max_texts
        assert len(taken) == 1 or sum(len(text.prompt_ids) for text in taken) <= max_tokens
        assert len({text.service_class is ServiceClass.BATCH for text in taken}) <= 1
        if returns:
            self._queue.put_back(taken)
            return
        for text in taken:
            del self._waiting[text.id]

    @precondition(lambda self: self._waiting)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self._waiting)))
        self._queue.remove(name)
        self._queue.remove(name)
        del self._waiting[name]

    @rule(now_s=st.floats(0, 10))
    def expire(self, now_s: float) -> None:
        due = {text.id for text in self._waiting.values() if text.deadline_s is not None and text.deadline_s <= now_s}
        assert {text.id for text, _ in self._queue.take_expired(now_s)} == due
        for name in due:
            del self._waiting[name]

    @invariant()
    def holds(self) -> None:
        self._queue.check()
        assert len(self._queue) == len(self._waiting)


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
