"""How many connections are served, refused and dropped."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.http.connections.open_connections import Admission, OpenConnections

pytestmark = pytest.mark.fast


def test_beyond_the_limit_some_are_told_and_the_rest_dropped() -> None:
    connections = OpenConnections(8, None)
    outcomes = [connections.enter("a") for _ in range(12)]
    assert outcomes == [Admission.SERVED] * 8 + [Admission.REFUSED] * 2 + [Admission.DROPPED] * 2


def test_one_client_cannot_take_the_place_of_another() -> None:
    connections = OpenConnections(100, 2)
    assert [connections.enter("a") for _ in range(3)] == [Admission.SERVED, Admission.SERVED, Admission.REFUSED]
    assert connections.enter("b") is Admission.SERVED
    connections.leave("a")
    connections.leave("a")
    assert connections.enter("a") is Admission.SERVED


@given(st.integers(1, 6), st.none() | st.integers(1, 3), st.lists(st.tuples(st.booleans(), st.sampled_from("abc"))))
def test_counts_are_those_of_a_list(limit: int, per_client: int | None, events: list[tuple[bool, str]]) -> None:
    connections = OpenConnections(limit, per_client)
    there: list[str] = []
    for is_new, client in events:
        if is_new:
            is_served = len(there) < limit and (per_client is None or there.count(client) < per_client)
            assert (connections.enter(client) is Admission.SERVED) == is_served
            there.append(client)
        elif client in there:
            connections.leave(client)
            there.remove(client)
        connections.check()
        assert len(connections) == len(there)
