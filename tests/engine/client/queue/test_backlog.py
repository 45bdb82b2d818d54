"""The backlog counts what waits, by who is served first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.client.queue.backlog import Backlog
from engine.protocol import ServiceClass

pytestmark = pytest.mark.fast

URGENT, USUAL, FLEX = ServiceClass.URGENT, ServiceClass.INTERACTIVE, ServiceClass.BACKGROUND


def test_only_what_is_served_before_a_request_counts_for_it() -> None:
    backlog = Backlog()
    for number, (service_class, num_tokens) in enumerate([(URGENT, 1), (USUAL, 20), (USUAL, 30), (FLEX, 400)]):
        backlog.add(str(number), service_class, num_tokens)
    assert [backlog.num_tokens_before(each) for each in (URGENT, USUAL, FLEX)] == [1, 51, 451]
    assert [backlog.num_requests_before(each) for each in (URGENT, USUAL, FLEX)] == [1, 3, 4]
    assert backlog.num_tokens == 451


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.sampled_from(ServiceClass), st.integers(0, 9))))
def test_it_is_the_sum_of_what_was_added_and_not_removed(
    moves: list[tuple[bool, int, ServiceClass, int]],
) -> None:
    backlog = Backlog()
    model: dict[str, tuple[ServiceClass, int]] = {}
    for is_added, number, service_class, num_tokens in moves:
        name = str(number)
        if is_added:
            backlog.add(name, service_class, num_tokens)
            model[name] = (service_class, num_tokens)
        else:
            backlog.remove(name)
            model.pop(name, None)
        backlog.check()
        clients = {each for each in ServiceClass if each not in (ServiceClass.BATCH, ServiceClass.AUDIT)}
        assert backlog.num_tokens == sum(num for service_class, num in model.values() if service_class in clients)
        assert backlog.num_requests_before(ServiceClass.AUDIT) == len(model)
        assert all((name in backlog) == (name in model) for name in map(str, range(6)))
