"""Lines of batches have no model unloaded that clients use or have just used, and come behind clients."""

import pytest

from server.errors import ModelNotLoaded
from server.served.loadable_model import SPARED_S, ModelState, Waiter
from tests.helpers.loading_policy import ResidencyServer, resident

pytestmark = pytest.mark.fast


def _two(**options: object) -> ResidencyServer:
    """With room for one of them."""
    return ResidencyServer(6, *(resident(name, **options) for name in "ab"))


def _line(server: ResidencyServer, name: str) -> Waiter:
    return server.residency.enter(name, lambda: None, is_batch=True)


def _look(server: ResidencyServer) -> None:
    """At the time at which the server would."""
    at_s = server.residency.next_look_s()
    assert at_s is not None
    server.now_s = at_s
    server.residency.look()


def test_a_line_waits_until_clients_have_not_used_the_model_for_a_while() -> None:
    server = _two()
    server.serve("a")
    used_s = server.residency["a"].used_s
    line = _line(server, "b")
    assert server.state("a") is ModelState.LOADED
    _look(server)
    assert server.now_s == used_s + SPARED_S
    assert server.state("a") is ModelState.UNLOADING
    server.unloaded("a")
    server.loaded("b")
    assert line.is_admitted


def test_the_time_is_the_models_own_idle_time_if_it_has_one() -> None:
    server = _two(idle_s=10.0)
    server.serve("a")
    _line(server, "b")
    _look(server)
    assert server.now_s == server.residency["a"].used_s + 10
    assert server.state("a") is ModelState.UNLOADING


def test_each_request_of_a_client_begins_the_time_anew() -> None:
    server = _two()
    server.serve("a")
    _line(server, "b")
    server.now_s += SPARED_S - 2
    server.serve("a")
    server.now_s += 10
    server.residency.look()
    assert server.state("a") is ModelState.LOADED


def test_a_model_that_only_lines_have_used_makes_room_at_once() -> None:
    server = _two()
    first = _line(server, "a")
    server.loaded("a")
    server.residency.withdraw("a", first)
    _line(server, "b")
    assert server.state("a") is ModelState.UNLOADING


def test_room_that_is_free_is_for_lines_too() -> None:
    server = ResidencyServer(12, *map(resident, "ab"))
    server.serve("a")
    _line(server, "b")
    assert server.state("b") is ModelState.LOADING


def test_nothing_is_unloaded_where_that_would_not_suffice() -> None:
    server = ResidencyServer(12, resident("a", 6), resident("b", 6), resident("c", 12))
    server.serve("a")
    first = _line(server, "b")
    server.loaded("b")
    server.residency.withdraw("b", first)
    _line(server, "c")
    assert (server.state("a"), server.state("b")) == (ModelState.LOADED, ModelState.LOADED)


def test_a_client_comes_before_lines_that_have_waited_longer() -> None:
    server = ResidencyServer(6, *map(resident, "abc"))
    server.serve("a")
    _line(server, "b")
    client = server.enter("c")
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
    assert server.enter("a").is_admitted
    server.residency.withdraw("a", running)
    assert server.state("a") is ModelState.LOADED


def test_lines_fill_no_queue_of_clients() -> None:
    server = _two()
    server.serve("a")
    for _ in range(20):
        _line(server, "b")
    assert not server.enter("b").is_over


def test_a_line_of_a_model_that_can_never_fit_is_refused() -> None:
    server = ResidencyServer(12, resident("a", 8, is_pinned=True), resident("b", 5))
    server.serve("a")
    with pytest.raises(ModelNotLoaded):
        _line(server, "b")
