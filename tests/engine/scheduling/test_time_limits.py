"""TimeLimits: a heap that agrees with a list, and that what is over does not fill."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.protocol import FinishReason
from engine.scheduling.sequence import Sequence, SequenceStatus
from engine.scheduling.time_limits import TimeLimits
from tests.helpers.engines import make_request

pytestmark = pytest.mark.fast

_REASONS = {"deadline_s": FinishReason.TIMEOUT, "start_by_s": FinishReason.QUEUE_TIMEOUT}


def _sequence(name: str, field: str, limit_s: float | None) -> Sequence:
    request = make_request(name, [1], **{field: limit_s})  # type: ignore[arg-type]
    return Sequence(request=request, seed=0, tokens=[1], num_prompt=1)


def _limit(field: str) -> Callable[[Sequence], float | None]:
    return lambda sequence: getattr(sequence.request, field)


@pytest.mark.parametrize("field", list(_REASONS))
@given(
    operations=st.lists(
        st.tuples(st.sampled_from(["add", "begin", "end", "take"]), st.none() | st.integers(0, 20)), max_size=300
    )
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_the_heap_agrees_with_a_list(field: str, operations: list[tuple[str, int | None]]) -> None:
    limit, limits, unfinished, now_s = _limit(field), TimeLimits(), list[Sequence](), 0

    def holding() -> dict[Sequence, float]:
        """A started sequence no longer has a limit of its time in the queue."""
        known = {each: limit(each) for each in unfinished if field == "deadline_s" or each.num_admitted == 0}
        return {each: limit_s for each, limit_s in known.items() if limit_s is not None}

    for number, (operation, value) in enumerate(operations):
        if operation == "add":
            sequence = _sequence(str(number), field, None if value is None else now_s + value)
            unfinished.append(sequence)
            limits.add(sequence)
        elif operation == "begin" and unfinished:
            unfinished[(value or 0) % len(unfinished)].num_admitted = 1
        elif operation == "end" and unfinished:
            unfinished.pop((value or 0) % len(unfinished)).status = SequenceStatus.FINISHED
        else:
            now_s += (value or 0) // 4
            due = sorted((each for each, limit_s in holding().items() if limit_s <= now_s), key=lambda s: limit(s) or 0)
            taken = limits.take_due(now_s)
            assert list(taken) == due
            assert set(taken.values()) <= {_REASONS[field]}
            for sequence in due:
                sequence.status = SequenceStatus.FINISHED
                unfinished.remove(sequence)
        limits.check(unfinished)
        assert limits.next_s == min(holding().values(), default=None)


@pytest.mark.parametrize("field", list(_REASONS))
def test_sequences_that_have_ended_do_not_fill_the_heap(field: str) -> None:
    limits = TimeLimits()
    last = _sequence("last", field, 1e7)
    limits.add(last)
    for number in range(10_000):
        sequence = _sequence(str(number), field, 1e6)
        limits.add(sequence)
        sequence.status = SequenceStatus.FINISHED
    assert len(limits._heap) < 200
    assert limits.take_due(1e7) == {last: _REASONS[field]}


@pytest.mark.parametrize("first", list(_REASONS))
def test_a_waiting_sequence_that_is_over_twice_has_waited_too_long(first: str) -> None:
    limits = TimeLimits()
    times = {"deadline_s": 2.0, "start_by_s": 2.0, first: 1.0}
    request = make_request("both", [1], **times)  # type: ignore[arg-type]
    sequence = Sequence(request=request, seed=0, tokens=[1], num_prompt=1)
    limits.add(sequence)
    assert limits.take_due(1.5) == {sequence: _REASONS[first]}
    limits = TimeLimits()
    limits.add(sequence)
    assert limits.take_due(3.0) == {sequence: FinishReason.QUEUE_TIMEOUT}
