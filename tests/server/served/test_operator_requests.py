"""Residency: what operators and requests say of how long a model is kept."""

import math

import pytest

from engine.errors import EngineUnavailable
from server.errors import ModelNotLoaded
from server.served.loadable_model import ModelState
from tests.helpers.loading_policy import ResidencyServer, resident, three

pytestmark = pytest.mark.fast


def test_a_request_says_for_how_long_its_model_is_kept() -> None:
    server = ResidencyServer(12, resident("a", idle_s=10.0))
    server.serve("a")
    server.residency.keep("a", math.inf)
    server.now_s += 1e6
    server.residency.look()
    assert not server.loader.unloading
    server.residency.keep("a", 0.0)
    server.residency.look()
    assert server.loader.unloading == {"a"}
    server.unloaded("a")
    server.serve("a")
    assert server.residency.next_look_s() == server.now_s - 1 + 10, "that was for once"


def test_what_a_request_says_of_its_models_time_ends_with_the_next_request() -> None:
    server = ResidencyServer(12, resident("a", idle_s=10.0))
    server.serve("a")
    server.residency.keep("a", math.inf)
    assert server.residency.next_look_s() is None
    server.serve("a")
    assert server.residency.next_look_s() == server.now_s - 1 + 10


def test_what_is_said_of_a_model_that_is_not_loaded_does_not_count() -> None:
    server = ResidencyServer(12, resident("a"))
    server.residency.keep("a", 0.0)
    server.want("a")
    server.loaded("a")
    server.residency.look()
    assert server.state("a") is ModelState.LOADED


def test_a_wish_for_a_model_that_goes_at_once_for_a_request_is_granted() -> None:
    server = ResidencyServer(6, *map(resident, "ab"))
    wish = server.want("a")
    server.enter("b")
    assert not wish.is_over
    server.loaded("a")
    assert (wish.is_over, wish.error, server.state("a")) == (True, None, ModelState.UNLOADING)


def test_a_wish_to_unload_a_model_that_requests_wait_for_is_granted() -> None:
    server = three()
    server.enter("a")
    server.loaded("a")
    wish, behind = server.dismiss("a"), server.enter("a")
    server.residency.leave("a")
    assert not wish.is_over
    server.unloaded("a")
    assert (wish.is_over, wish.error, server.state("a")) == (True, None, ModelState.LOADING)
    server.loaded("a")
    assert behind.is_admitted


def test_a_wish_for_what_does_not_fit_or_fails_is_refused() -> None:
    server = ResidencyServer(12, resident("a", 8, is_pinned=True), resident("b", 5), resident("c", 4))
    server.serve("a")
    assert isinstance(server.want("b").error, ModelNotLoaded)
    wish = server.want("c")
    server.residency.failed("c", "no such file")
    assert "no such file" in str(wish.error), "which operators are told"
    assert server.dismiss("c").is_over


def test_the_last_of_two_operators_is_heard_and_the_first_is_told() -> None:
    server = ResidencyServer(6, *map(resident, "ab"))
    server.serve("a")
    server.enter("a")
    load = server.want("b")
    unload = server.dismiss("b")
    assert isinstance(load.error, EngineUnavailable)
    assert (unload.is_over, unload.error) == (True, None)
    unload = server.dismiss("a")
    load = server.want("a")
    assert isinstance(unload.error, EngineUnavailable)
    assert (load.is_over, load.error) == (True, None)


def test_an_operator_loads_and_unloads() -> None:
    server = three()
    server.want("a")
    server.loaded("a")
    running = server.enter("a")
    server.dismiss("a")
    behind = server.enter("a")
    assert running.is_admitted
    assert not server.loader.unloading
    server.residency.leave("a")
    server.unloaded("a")
    server.loaded("a")
    assert behind.is_admitted


def test_one_that_is_dismissed_while_it_loads_serves_those_that_wait_first() -> None:
    server = three()
    waiting = server.enter("a")
    server.dismiss("a")
    behind = server.enter("a")
    server.loaded("a")
    late = server.enter("a")
    assert (waiting.is_admitted, behind.is_admitted, late.is_over) == (True, True, False)
    server.residency.leave("a")
    server.residency.leave("a")
    assert server.loader.unloading == {"a"}
