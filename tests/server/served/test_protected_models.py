"""Lines of batches have no model unloaded that clients use or have just used, and come behind clients."""

import pytest

from server.errors import ModelNotLoaded
from server.served.loadable_model import PROTECTED_S, ModelState, Waiter
from tests.helpers.loading_policy import PolicyServer, loadable

pytestmark = pytest.mark.fast


def _two(**options: object) -> PolicyServer:
    """With room for one of them."""
    return PolicyServer(6, *(loadable(name, **options) for name in "ab"))


def _line(server: PolicyServer, name: str) -> Waiter:
    return server.policy.acquire(name, lambda: None, is_batch=True)


def _look(server: PolicyServer) -> None:
    """At the time at which the server would."""
    at_s = server.policy.next_deadline_s()
    assert at_s is not None
    server.now_s = at_s
    server.policy.on_deadline()


def test_a_line_waits_until_clients_have_not_used_the_model_for_a_while() -> None:
    server = _two()
    server.serve("a")
    used_s = server.policy["a"].used_s
    line = _line(server, "b")
    assert server.state("a") is ModelState.LOADED
    _look(server)
    assert server.now_s == used_s + PROTECTED_S
    assert server.state("a") is ModelState.UNLOADING
    server.unloaded("a")
    server.loaded("b")
    assert line.is_admitted


def test_the_time_is_the_models_own_idle_time_if_it_has_one() -> None:
    server = _two(idle_s=10.0)
    server.serve("a")
    _line(server, "b")
    _look(server)
    assert server.now_s == server.policy["a"].used_s + 10
    assert server.state("a") is ModelState.UNLOADING


def test_each_request_of_a_client_begins_the_time_anew() -> None:
    server = _two()
    server.serve("a")
    _line(server, "b")
    server.now_s += PROTECTED_S - 2
    server.serve("a")
    server.now_s += 10
    server.policy.on_deadline()
    assert server.state("a") is ModelState.LOADED


def test_a_model_that_only_lines_have_used_makes_room_at_once() -> None:
    server = _two()
    first = _line(server, "a")
    server.loaded("a")
    server.policy.withdraw("a", first)
    _line(server, "b")
    assert server.state("a") is ModelState.UNLOADING


def test_room_that_is_free_is_for_lines_too() -> None:
    server = PolicyServer(12, *map(loadable, "ab"))
    server.serve("a")
    _line(server, "b")
    assert server.state("b") is ModelState.LOADING


def test_nothing_is_unloaded_where_that_would_not_suffice() -> None:
    server = PolicyServer(12, loadable("a", 6), loadable("b", 6), loadable("c", 12))
    server.serve("a")
    first = _line(server, "b")
    server.loaded("b")
    server.policy.withdraw("b", first)
    _line(server, "c")
    assert (server.state("a"), server.state("b")) == (ModelState.LOADED, ModelState.LOADED)


def test_a_client_comes_before_lines_that_have_waited_longer() -> None:
    server = PolicyServer(6, *map(loadable, "abc"))
    server.serve("a")
    _line(server, "b")
    client = server.acquire("c")
    assert server.state("a") is ModelState.UNLOADING
    server.unloaded("a")
    assert server.loader.loading == {"c"}
    server.loaded("c")
    assert client.is_admitted


def test_a_client_that_comes_in_time_has_its_model_back() -> None:
    server = _two()
    running = _line(server, "a")
    server.loaded("a")
    assert running.is_admitted
    _line(server, "b")  # waits for the line of the other model to end
    assert server.state("a") is ModelState.LOADED
    assert server.acquire("a").is_admitted
    server.policy.withdraw("a", running)
    assert server.state("a") is ModelState.LOADED


def test_lines_fill_no_queue_of_clients() -> None:
    server = _two()
    server.serve("a")
    for _ in range(20):
        _line(server, "b")
    assert not server.acquire("b").is_done


def test_a_line_of_a_model_that_can_never_fit_is_refused() -> None:
    server = PolicyServer(12, loadable("a", 8, is_pinned=True), loadable("b", 5))
    server.serve("a")
    with pytest.raises(ModelNotLoaded):
        _line(server, "b")
