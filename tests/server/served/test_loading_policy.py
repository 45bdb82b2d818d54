"""LoadingPolicy: who is loaded when, and what becomes of the requests that come and go meanwhile."""

import math
from collections import Counter

import pytest

from engine.errors import EngineStopped, EngineUnavailable, QueueFull
from server.errors import ModelFailed, ModelNotLoaded
from server.served.loadable_model import ModelState
from tests.helpers.loading_policy import PolicyServer, loadable, three

pytestmark = pytest.mark.fast


def test_a_request_waits_for_its_model_and_then_finds_it_loaded() -> None:
    server = three()
    first = server.acquire("a")
    assert not first.is_done
    assert server.state("a") is ModelState.LOADING
    server.loaded("a")
    assert first.is_admitted
    assert server.acquire("a").is_admitted
    assert server.loader.num_loads == {"a": 1}


def test_the_least_recently_used_makes_room() -> None:
    server = three()
    for name in ("a", "b", "a"):
        server.serve(name)
    waiter = server.acquire("c")
    assert (server.loader.unloading, server.state("a")) == ({"b"}, ModelState.LOADED)
    assert not server.loader.loading
    server.unloaded("b")
    server.loaded("c")
    assert waiter.is_admitted


def test_a_model_makes_room_on_its_own_device_only() -> None:
    models = [loadable("a"), loadable("b", device="cuda:0"), loadable("c", device="cuda:0")]
    server = PolicyServer({"cpu": 6, "cuda:0": 7}, *models)
    for name in ("a", "b"):
        server.serve(name)
    server.acquire("c")
    assert server.loader.unloading == {"b"}
    server.unloaded("b")
    server.loaded("c")
    assert [server.state(name) for name in "abc"] == [ModelState.LOADED, ModelState.UNLOADED, ModelState.LOADED]


def test_a_model_in_use_finishes_first_while_new_requests_of_it_wait_behind() -> None:
    server = PolicyServer(6, *map(loadable, "ab"))
    server.serve("a")
    running = server.acquire("a")
    for_b, behind = server.acquire("b"), server.acquire("a")
    assert (running.is_admitted, for_b.is_done, behind.is_done) == (True, False, False)
    assert not server.loader.unloading
    server.policy.release("a")
    server.unloaded("a")
    server.loaded("b")
    assert for_b.is_admitted
    server.policy.release("b")
    server.unloaded("b")
    server.loaded("a")
    assert behind.is_admitted


def test_a_draining_model_admits_again_when_the_request_for_another_is_gone() -> None:
    server = PolicyServer(6, *map(loadable, "ab"))
    server.serve("a")
    server.acquire("a")
    for_b, behind = server.acquire("b"), server.acquire("a")
    server.policy.withdraw("b", for_b)
    assert behind.is_admitted
    assert server.state("b") is ModelState.UNLOADED


def test_those_that_came_first_are_served_before_their_model_makes_room() -> None:
    server = PolicyServer(6, *map(loadable, "ab"))
    for_a, for_b = server.acquire("a"), server.acquire("b")
    server.loaded("a")
    assert for_a.is_admitted
    server.policy.release("a")
    server.unloaded("a")
    server.loaded("b")
    assert for_b.is_admitted


def test_a_request_that_goes_while_its_model_loads_is_not_admitted() -> None:
    server = three()
    waiter = server.acquire("a")
    server.policy.withdraw("a", waiter)
    server.loaded("a")
    assert not waiter.is_admitted
    assert server.policy["a"].num_users == 0


def test_idle_models_are_unloaded_in_time_and_pinned_ones_never() -> None:
    server = PolicyServer(12, loadable("a", idle_s=10.0), loadable("b", idle_s=10.0, is_pinned=True))
    server.serve("a")
    server.serve("b")
    server.acquire("a")
    server.now_s += 100
    server.policy.on_deadline()
    assert not server.loader.unloading
    server.policy.release("a")
    assert server.policy.next_deadline_s() == server.now_s + 10
    server.now_s += 10
    server.policy.on_deadline()
    assert server.loader.unloading == {"a"}
    assert server.policy.next_deadline_s() is None


def test_one_that_does_not_fit_beside_pinned_ones_is_refused() -> None:
    server = PolicyServer(12, loadable("a", 8, is_pinned=True), loadable("b", 5), loadable("c", 4))
    server.serve("a")
    with pytest.raises(ModelNotLoaded, match=r"^the model does not fit beside the models that stay loaded;") as refused:
        server.acquire("b")
    assert refused.value.retry_after_s >= 1
    server.serve("c")


def test_those_that_wait_for_a_model_are_refused_when_a_pinned_one_comes_first() -> None:
    server = PolicyServer(10, loadable("a", 8, is_pinned=True), loadable("b", 7), loadable("c", 4))
    server.serve("c")
    server.acquire("c")
    waiter = server.acquire("b")
    server.request_load("a")  # an operator's request comes before requests
    server.policy.release("c")
    server.unloaded("c")
    server.loaded("a")
    assert isinstance(waiter.error, ModelNotLoaded)


def test_a_failure_is_reported_immediately_and_tried_again_later() -> None:
    server = three()
    waiter = server.acquire("a")
    server.loader.loading.remove("a")
    server.policy.on_failed("a", "no such file")
    assert isinstance(waiter.error, EngineUnavailable)
    assert isinstance(waiter.error, ModelFailed)
    assert waiter.error.retry_after_s == 10
    with pytest.raises(ModelFailed, match=r"^the model could not be loaded; try again in 10 s"):
        server.acquire("a")
    server.now_s += 10
    again = server.acquire("a")
    server.loaded("a")
    assert again.is_admitted


def test_a_failure_for_good_invites_no_retry_until_a_passing_one_follows() -> None:
    server = three()
    server.serve("a")
    server.policy.on_failed("a", "no such tensor", is_for_good=True)
    with pytest.raises(ModelFailed, match="because of its files or options") as refused:
        server.acquire("a")
    assert refused.value.retry_after_s is None
    server.now_s += 10
    waiter = server.acquire("a")
    server.loader.loading.remove("a")
    server.policy.on_failed("a", "too little memory")
    assert isinstance(waiter.error, ModelFailed)
    assert waiter.error.retry_after_s == 10


def test_a_failure_that_clients_may_see_is_told() -> None:
    server = three()
    server.serve("a")
    server.policy.on_failed("a", "the chat template is damaged", is_for_good=True, is_public=True)
    with pytest.raises(ModelFailed, match="until its operator changes it: the chat template is damaged"):
        server.acquire("a")


def test_one_that_failed_is_tried_again_where_it_displaces_none_and_may_load() -> None:
    """A load balancer that asks /ready?model=a sends no request that would have it tried."""
    server = PolicyServer(12, *map(loadable, "abc"))  # of 5 each
    server.serve("a")
    server.policy.on_failed("a", "killed")
    assert server.policy.next_deadline_s() == server.now_s + 10
    server.serve("b")
    server.serve("c")
    assert server.policy.next_deadline_s() is None, "there is no room"
    server.request_unload("c")
    server.unloaded("c")
    server.now_s += 10
    server.policy.on_deadline()
    assert server.loader.loading == {"a"}
    server.loader.loading.remove("a")
    server.policy.on_failed("a", "no such tensor", is_for_good=True)
    assert server.policy.next_deadline_s() is None


def test_clients_that_wait_for_memory_come_before_a_failed_model_that_would_fit() -> None:
    server = PolicyServer(12, loadable("a", 4), loadable("b", 8), loadable("c", 10))
    server.serve("a")
    server.policy.on_failed("a", "killed")
    server.serve("b")
    server.acquire("b")
    for_c = server.acquire("c")
    server.now_s += 10
    assert server.policy.next_deadline_s() is None
    server.policy.on_deadline()
    assert not server.loader.loading
    server.policy.release("b")
    server.unloaded("b")
    server.loaded("c")
    assert for_c.is_admitted


def test_a_failed_model_is_tried_again_while_lines_of_batches_wait() -> None:
    """They may wait all day for a model that clients use."""
    server = PolicyServer(12, loadable("a", 4), loadable("b", 8), loadable("c", 10))
    server.serve("a")
    server.policy.on_failed("a", "killed")
    server.serve("b")
    server.acquire("b")
    server.policy.acquire("c", lambda: None, is_batch=True)
    server.now_s += 10
    server.policy.on_deadline()
    assert server.loader.loading == {"a"}


def test_when_all_have_failed_the_server_tries_again_by_itself_ever_less_often() -> None:
    """No load balancer sends a request to a server that is not ready, so none would have it try."""
    server = PolicyServer(12, *map(loadable, "ab"))
    server.serve("a")
    server.serve("b")
    server.policy.on_failed("a", "killed")
    server.policy.on_failed("b", "killed")
    tried = []
    for _ in range(7):
        due_s = server.policy.next_deadline_s()
        assert due_s is not None
        server.now_s = math.nextafter(due_s, 0)
        server.policy.on_deadline()
        assert not server.loader.loading
        server.now_s = due_s
        server.policy.on_deadline()
        (name,) = server.loader.loading
        assert server.policy.next_deadline_s() is None, "one at a time"
        server.loader.loading.clear()
        server.policy.on_failed(name, "no such file")
        tried.append(name)
    assert Counter(tried) == {"a": 4, "b": 3}
    assert server.policy.next_deadline_s() - server.now_s <= 300
    server.now_s += 300
    server.policy.on_deadline()
    server.loaded(*server.loader.loading)
    server.policy.on_deadline()
    server.loaded(*server.loader.loading)  # the other one, whose failure may pass too
    assert server.policy.next_deadline_s() is None


def test_the_pause_before_the_server_tries_again_doubles_up_to_its_limit_and_begins_anew() -> None:
    server = PolicyServer(12, loadable("a"))
    server.serve("a")
    for expected_s in (10, 20, 40, 80, 160, 300, 300):
        server.policy.on_failed("a", "killed")
        assert server.policy.next_deadline_s() == server.now_s + expected_s
        server.now_s += expected_s
        server.policy.on_deadline()
        server.loader.loading.remove("a")
    server.loader.loading.add("a")
    server.loaded("a")
    server.policy.on_failed("a", "killed")
    assert server.policy.next_deadline_s() == server.now_s + 10


def test_no_more_wait_than_may() -> None:
    server = three()
    for _ in range(3):
        server.acquire("a")
    with pytest.raises(QueueFull):
        server.acquire("a")
    server.loaded("a")
    assert server.acquire("a").is_admitted


def test_no_more_wait_than_may_behind_a_model_that_makes_room_or_is_dismissed() -> None:
    server = PolicyServer(6, *map(loadable, "ab"))
    server.serve("a")
    server.acquire("a")
    for_b = server.acquire("b")
    for _ in range(3):
        server.acquire("a")
    with pytest.raises(QueueFull):
        server.acquire("a")
    server.policy.withdraw("b", for_b)
    assert server.acquire("a").is_admitted
    server.request_unload("a")
    for _ in range(3):
        server.acquire("a")
    with pytest.raises(QueueFull):
        server.acquire("a")


def test_models_make_room_though_their_requests_overlap_all_the_time() -> None:
    server = three()
    for name in "ab":
        server.acquire(name)
        server.loaded(name)
        server.acquire(name)
    for_c = server.acquire("c")
    for name in "ababab":
        server.now_s += 1
        server.policy.release(name)
        if server.loader.unloading:
            break
        server.acquire(name)
    assert server.loader.unloading == {"a"}
    server.unloaded("a")
    server.loaded("c")
    assert for_c.is_admitted


def test_nothing_is_decided_after_the_end() -> None:
    server = PolicyServer(6, *map(loadable, "ab"))
    for_a, for_b, request = server.acquire("a"), server.acquire("b"), server.request_load("b")
    server.policy.close()
    assert all(isinstance(each.error, EngineStopped) for each in (for_a, for_b, request))
    server.loaded("a")
    server.policy.on_deadline()
    assert not server.loader.unloading
    for call in (server.acquire, server.request_load, server.request_unload):
        with pytest.raises(EngineStopped):
            call("a")


def test_what_was_measured_counts_from_then_on() -> None:
    server = PolicyServer(12, loadable("a", 10), loadable("b", 6))
    server.acquire("a")
    server.loaded("a", 4)
    server.acquire("b")
    assert server.loader.loading == {"b"}, "beside one that needs less than was expected"
    server.loaded("b", 9)
    server.policy.release("b")
    server.request_unload("b")
    server.unloaded("b")
    server.acquire("b")
    assert not server.loader.loading, "it needs more than was expected"
