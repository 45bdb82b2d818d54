"""One tenant's waiting sequences: the next in order, the next that is short enough, and those that are set aside."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.scheduling.fairness.tenant_queue import TenantQueue
from engine.scheduling.sequence import Order, Sequence
from tests.helpers.engines import make_request

pytestmark = pytest.mark.fast


def sequence(number: int, num_to_compute: int) -> Sequence:
    each = Sequence(request=make_request(str(number), [1]), seed=0, tokens=[1], num_prompt=1)
    each.order = (1, 0, 0.0, number, 0)
    each.num_to_compute = num_to_compute
    return each


def test_the_next_is_the_first_in_order_or_the_first_that_is_short_enough() -> None:
    queue = TenantQueue()
    long, short, shorter = sequence(0, 100), sequence(1, 40), sequence(2, 33)
    for each in (shorter, long, short):
        queue.add(each)
    assert queue.next_after() is long
    assert queue.next_after(long.order) is short
    assert queue.next_after(None, 40) is short
    assert queue.next_after(None, 39) is shorter
    assert queue.next_after(shorter.order) is None
    assert queue.next_after(None, 32) is None
    assert queue.next_after(None, 0) is None


def test_one_that_is_set_aside_waits_and_is_not_next() -> None:
    queue = TenantQueue()
    first, second = sequence(0, 5), sequence(1, 5)
    queue.add(first)
    queue.add(second)
    queue.set_aside(first)
    assert queue.next_after() is second
    assert len(queue) == 2
    queue.put_back(first)
    assert queue.next_after() is first


def test_a_short_one_behind_any_number_of_long_ones_is_found() -> None:
    queue = TenantQueue()
    for number in range(2000):
        queue.add(sequence(number, 5000))
    short = sequence(2000, 60)
    queue.add(short)
    assert queue.next_after(None, 2500) is short


@pytest.mark.parametrize(("num_longer", "is_found"), [(63, True), (65, False)])
def test_of_those_about_as_long_as_the_limit_the_first_64_are_looked_at(num_longer: int, is_found: bool) -> None:
    """A sequence no longer than the limit is found behind any number of those more than twice as long, and
    one of at most half of the limit always; one in between behind up to 63 that are somewhat too long."""
    queue = TenantQueue()
    for number in range(num_longer):
        queue.add(sequence(number, 50))
    short, much_shorter = sequence(100, 40), sequence(200, 20)
    queue.add(short)
    assert queue.next_after(None, 40) is (short if is_found else None)
    queue.add(much_shorter)
    assert queue.next_after(None, 40) is (short if is_found else much_shorter)
    assert queue.next_after(sequence(10, 50).order, 40) is short  # those behind are looked at from farther on


def test_a_length_that_has_changed_is_the_one_that_counts() -> None:
    queue = TenantQueue()
    first, second = sequence(0, 2), sequence(1, 2)
    queue.add(first)
    queue.add(second)
    queue.correct_length(first, 500)
    queue.check()
    assert queue.next_after(None, 250) is second
    assert queue.next_after() is first


OPERATIONS = st.tuples(
    st.sampled_from(["add", "add", "add aside", "remove", "set aside", "put back"]),
    st.integers(1, 40),
    st.integers(0, 9),
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    operations=st.lists(OPERATIONS, max_size=60),
    order=st.none() | st.integers(-1, 60),
    most=st.none() | st.integers(0, 50),
)
def test_it_agrees_with_a_list(operations: list[tuple[str, int, int]], order: int | None, most: int | None) -> None:
    queue, line, aside = TenantQueue(), list[Sequence](), list[Sequence]()
    for number, (operation, length, index) in enumerate(operations):
        match operation:
            case "add" | "add aside":
                each = sequence((7 * number) % 61, length)
                queue.add(each, is_aside=operation == "add aside")
                (aside if operation == "add aside" else line).append(each)
            case "remove" if both := line + aside:
                each = both[index % len(both)]
                queue.remove(each)
                (line if each in line else aside).remove(each)
            case "set aside" if line:
                each = line.pop(index % len(line))
                queue.set_aside(each)
                aside.append(each)
            case "put back" if aside:
                each = aside.pop(index % len(aside))
                queue.put_back(each)
                line.append(each)
        queue.check()
    assert set(queue) == {*line, *aside}
    assert len(queue) == len(line) + len(aside)
    place: Order | None = None if order is None else (1, 0, 0.0, order, 0)
    behind = [
        each
        for each in sorted(line, key=lambda each: each.order)
        if (place is None or each.order > place) and (most is None or each.num_to_compute <= most)
    ]
    assert queue.next_after(place, most) is (behind[0] if behind else None)
