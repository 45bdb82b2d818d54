"""LoadingPolicy: what operators and requests say of how long a model is kept."""

import math

import pytest

from engine.errors import EngineUnavailable
from server.errors import ModelNotLoaded
from server.served.loadable_model import ModelState
from tests.helpers.loading_policy import PolicyServer, loadable, three

pytestmark = pytest.mark.fast


def test_a_request_says_for_how_long_its_model_is_kept() -> None:
    server = PolicyServer(12, loadable("a", idle_s=10.0))
    server.serve("a")
    server.policy.set_keep_alive("a", math.inf)
    server.now_s += 1e6
    server.policy.on_deadline()
    assert not server.loader.unloading
    server.policy.set_keep_alive("a", 0.0)
    server.policy.on_deadline()
    assert server.loader.unloading == {"a"}
    server.unloaded("a")
    server.serve("a")
    assert server.policy.next_deadline_s() == server.now_s - 1 + 10, "that was for once"


def test_what_a_request_says_of_its_models_time_ends_with_the_next_request() -> None:
    server = PolicyServer(12, loadable("a", idle_s=10.0))
    server.serve("a")
    server.policy.set_keep_alive("a", math.inf)
    assert server.policy.next_deadline_s() is None
    server.serve("a")
    assert server.policy.next_deadline_s() == server.now_s - 1 + 10


def test_what_is_said_of_a_model_that_is_not_loaded_does_not_count() -> None:
    server = PolicyServer(12, loadable("a"))
    server.policy.set_keep_alive("a", 0.0)
    server.request_load("a")
    server.loaded("a")
    server.policy.on_deadline()
    assert server.state("a") is ModelState.LOADED


def test_a_request_for_a_model_that_goes_at_once_for_a_request_is_granted() -> None:
    server = PolicyServer(6, *map(loadable, "ab"))
    request = server.request_load("a")
    server.acquire("b")
    assert not request.is_done
    server.loaded("a")
    assert (request.is_done, request.error, server.state("a")) == (True, None, ModelState.UNLOADING)


def test_a_request_to_unload_a_model_that_requests_wait_for_is_granted() -> None:
    server = three()
    server.acquire("a")
    server.loaded("a")
    request, behind = server.request_unload("a"), server.acquire("a")
    server.policy.release("a")
    assert not request.is_done
    server.unloaded("a")
    assert (request.is_done, request.error, server.state("a")) == (True, None, ModelState.LOADING)
    server.loaded("a")
    assert behind.is_admitted


def test_a_request_for_what_does_not_fit_or_fails_is_refused() -> None:
    server = PolicyServer(12, loadable("a", 8, is_pinned=True), loadable("b", 5), loadable("c", 4))
    server.serve("a")
    assert isinstance(server.request_load("b").error, ModelNotLoaded)
    request = server.request_load("c")
    server.policy.on_failed("c", "no such file")
    assert "no such file" in str(request.error), "which operators are told"
    assert server.request_unload("c").is_done


def test_a_failed_model_that_an_operator_unloads_waits_for_its_next_request() -> None:
    server = three()
    server.serve("a")
    server.policy.on_failed("a", "killed")
    assert server.request_unload("a").is_done
    assert (server.state("a"), server.policy.next_deadline_s()) == (ModelState.UNLOADED, None)
    server.now_s += 1000
    server.policy.on_deadline()
    assert not server.loader.loading
    server.serve("a")


@pytest.mark.parametrize("is_loaded", [False, True])
def test_so_does_a_model_that_fails_while_it_is_to_be_unloaded(is_loaded: bool) -> None:
    server = three()
    server.acquire("a")
    if is_loaded:
        server.loaded("a")
    request = server.request_unload("a")
    server.loader.loading.discard("a")
    server.policy.on_failed("a", "killed")
    assert (request.is_done, request.error) == (True, None)
    assert (server.state("a"), server.policy.next_deadline_s()) == (ModelState.UNLOADED, None)


def test_the_last_of_two_operators_is_heard_and_the_first_is_told() -> None:
    server = PolicyServer(6, *map(loadable, "ab"))
    server.serve("a")
    server.acquire("a")
    load = server.request_load("b")
    unload = server.request_unload("b")
    assert isinstance(load.error, EngineUnavailable)
    assert (unload.is_done, unload.error) == (True, None)
    unload = server.request_unload("a")
    load = server.request_load("a")
    assert isinstance(unload.error, EngineUnavailable)
    assert (load.is_done, load.error) == (True, None)


def test_an_operator_loads_and_unloads() -> None:
    server = three()
    server.request_load("a")
    server.loaded("a")
    running = server.acquire("a")
    server.request_unload("a")
    behind = server.acquire("a")
    assert running.is_admitted
    assert not server.loader.unloading
    server.policy.release("a")
    server.unloaded("a")
    server.loaded("a")
    assert behind.is_admitted


def test_one_that_is_dismissed_while_it_loads_serves_those_that_wait_first() -> None:
    server = three()
    waiting = server.acquire("a")
    server.request_unload("a")
    behind = server.acquire("a")
    server.loaded("a")
    late = server.acquire("a")
    assert (waiting.is_admitted, behind.is_admitted, late.is_done) == (True, True, False)
    server.policy.release("a")
    server.policy.release("a")
    assert server.loader.unloading == {"a"}
