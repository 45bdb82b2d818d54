"""Residency: who is loaded when, and what becomes of the requests that come and go meanwhile."""

import math
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.errors import EngineStopped, EngineUnavailable, HeadraceError, QueueFull
from server.errors import ModelNotLoaded
from server.served.residency import Residency
from server.served.resident import ModelState, Resident, Waiter
from server.served.wishes import Wish

pytestmark = pytest.mark.fast


class _Loader:
    """Notes what was begun; the test says when it ends."""

    def __init__(self) -> None:
        self.loading: set[str] = set()
        self.unloading: set[str] = set()
        self.num_loads: Counter[str] = Counter()

    def load(self, name: str) -> None:
        self.loading.add(name)
        self.num_loads[name] += 1

    def unload(self, name: str) -> None:
        self.unloading.add(name)


class _Server:
    """A residency with a clock and a loader of the test's own."""

    def __init__(self, limit_bytes: int, *residents: Resident) -> None:
        self.loader = _Loader()
        self.now_s = 1000.0
        self.residency = Residency(residents, limit_bytes, self.loader, now=lambda: self.now_s)

    def enter(self, name: str) -> Waiter:
        return self.residency.enter(name, lambda: None)

    def want(self, name: str) -> Wish:
        return self.residency.want(name, lambda: None)

    def dismiss(self, name: str) -> Wish:
        return self.residency.dismiss(name, lambda: None)

    def loaded(self, name: str, need_bytes: int | None = None) -> None:
        self.loader.loading.remove(name)
        self.residency.loaded(name, need_bytes)

    def unloaded(self, name: str) -> None:
        self.loader.unloading.remove(name)
        self.residency.unloaded(name)

    def state(self, name: str) -> ModelState:
        return self.residency[name].state

    def serve(self, name: str) -> None:
        """Have the model loaded, and a request of it done."""
        waiter = self.enter(name)
        if not waiter.is_admitted:
            self.loaded(name)
        assert waiter.is_admitted
        self.residency.leave(name)
        self.now_s += 1


def _resident(name: str, need_bytes: int = 6, **options: object) -> Resident:
    return Resident(name, need_bytes, 3, **options)  # type: ignore[arg-type]


def _three(limit_bytes: int = 12) -> _Server:
    return _Server(limit_bytes, *map(_resident, "abc"))


def test_a_request_waits_for_its_model_and_then_finds_it_loaded() -> None:
    server = _three()
    first = server.enter("a")
    assert not first.is_over
    assert server.state("a") is ModelState.LOADING
    server.loaded("a")
    assert first.is_admitted
    assert server.enter("a").is_admitted
    assert server.loader.num_loads == {"a": 1}


def test_the_least_recently_used_makes_room() -> None:
    server = _three()
    for name in ("a", "b", "a"):
        server.serve(name)
    waiter = server.enter("c")
    assert (server.loader.unloading, server.state("a")) == ({"b"}, ModelState.LOADED)
    assert not server.loader.loading
    server.unloaded("b")
    server.loaded("c")
    assert waiter.is_admitted


def test_a_model_in_use_finishes_first_while_new_requests_of_it_wait_behind() -> None:
    server = _Server(6, *map(_resident, "ab"))
    server.serve("a")
    running = server.enter("a")
    for_b, behind = server.enter("b"), server.enter("a")
    assert (running.is_admitted, for_b.is_over, behind.is_over) == (True, False, False)
    assert not server.loader.unloading
    server.residency.leave("a")
    server.unloaded("a")
    server.loaded("b")
    assert for_b.is_admitted
    server.residency.leave("b")
    server.unloaded("b")
    server.loaded("a")
    assert behind.is_admitted


def test_whoever_is_in_the_way_goes_on_when_the_one_that_waited_is_gone() -> None:
    server = _Server(6, *map(_resident, "ab"))
    server.serve("a")
    server.enter("a")
    for_b, behind = server.enter("b"), server.enter("a")
    server.residency.withdraw("b", for_b)
    assert behind.is_admitted
    assert server.state("b") is ModelState.UNLOADED


def test_those_that_came_first_are_served_before_their_model_makes_room() -> None:
    server = _Server(6, *map(_resident, "ab"))
    for_a, for_b = server.enter("a"), server.enter("b")
    server.loaded("a")
    assert for_a.is_admitted
    server.residency.leave("a")
    server.unloaded("a")
    server.loaded("b")
    assert for_b.is_admitted


def test_a_request_that_goes_while_its_model_loads_is_not_admitted() -> None:
    server = _three()
    waiter = server.enter("a")
    server.residency.withdraw("a", waiter)
    server.loaded("a")
    assert not waiter.is_admitted
    assert server.residency["a"].num_users == 0


def test_idle_models_are_unloaded_in_time_and_pinned_ones_never() -> None:
    server = _Server(12, _resident("a", idle_s=10.0), _resident("b", idle_s=10.0, is_pinned=True))
    server.serve("a")
    server.serve("b")
    server.enter("a")
    server.now_s += 100
    server.residency.look()
    assert not server.loader.unloading
    server.residency.leave("a")
    assert server.residency.next_look_s() == server.now_s + 10
    server.now_s += 10
    server.residency.look()
    assert server.loader.unloading == {"a"}
    assert server.residency.next_look_s() is None


def test_a_request_says_for_how_long_its_model_is_kept() -> None:
    server = _Server(12, _resident("a", idle_s=10.0))
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


def test_one_that_does_not_fit_beside_pinned_ones_is_refused() -> None:
    server = _Server(12, _resident("a", 8, is_pinned=True), _resident("b", 5), _resident("c", 4))
    server.serve("a")
    with pytest.raises(ModelNotLoaded, match=r"^the model does not fit beside the models that stay loaded;") as refused:
        server.enter("b")
    assert refused.value.retry_after_s >= 1
    server.serve("c")


def test_those_that_wait_for_a_model_are_refused_when_a_pinned_one_comes_first() -> None:
    server = _Server(10, _resident("a", 8, is_pinned=True), _resident("b", 7), _resident("c", 4))
    server.serve("c")
    server.enter("c")
    waiter = server.enter("b")
    server.want("a")  # an operator's wish comes before requests
    server.residency.leave("c")
    server.unloaded("c")
    server.loaded("a")
    assert isinstance(waiter.error, ModelNotLoaded)


def test_a_failure_is_told_at_once_and_tried_again_later() -> None:
    server = _three()
    waiter = server.enter("a")
    server.loader.loading.remove("a")
    server.residency.failed("a", "no such file")
    assert isinstance(waiter.error, EngineUnavailable)
    with pytest.raises(EngineUnavailable, match=r"^the model could not be loaded, or has failed; .* from 10 s on$"):
        server.enter("a")
    server.now_s += 10
    again = server.enter("a")
    server.loaded("a")
    assert again.is_admitted


def test_when_all_have_failed_the_server_tries_again_by_itself_ever_less_often() -> None:
    """No load balancer sends a request to a server that is not ready, so none would have it try."""
    server = _Server(12, *map(_resident, "ab"))
    server.serve("a")
    server.residency.failed("a", "killed")
    assert server.residency.next_look_s() is None, "a request for the other one is taken"
    server.serve("b")
    server.residency.failed("b", "killed")
    tried = []
    for _ in range(7):
        due_s = server.residency.next_look_s()
        assert due_s is not None
        server.now_s = math.nextafter(due_s, 0)
        server.residency.look()
        assert not server.loader.loading
        server.now_s = due_s
        server.residency.look()
        (name,) = server.loader.loading
        assert server.residency.next_look_s() is None, "one at a time"
        server.loader.loading.clear()
        server.residency.failed(name, "no such file")
        tried.append(name)
    assert Counter(tried) == {"a": 4, "b": 3}
    assert server.residency.next_look_s() - server.now_s <= 300
    server.now_s += 300
    server.residency.look()
    server.loaded(*server.loader.loading)
    assert server.residency.next_look_s() is None


def test_the_pause_before_the_server_tries_again_doubles_up_to_its_limit_and_begins_anew() -> None:
    server = _Server(12, _resident("a"))
    server.serve("a")
    for expected_s in (10, 20, 40, 80, 160, 300, 300):
        server.residency.failed("a", "killed")
        assert server.residency.next_look_s() == server.now_s + expected_s
        server.now_s += expected_s
        server.residency.look()
        server.loader.loading.remove("a")
    server.loader.loading.add("a")
    server.loaded("a")
    server.residency.failed("a", "killed")
    assert server.residency.next_look_s() == server.now_s + 10


def test_no_more_wait_than_may() -> None:
    server = _three()
    for _ in range(3):
        server.enter("a")
    with pytest.raises(QueueFull):
        server.enter("a")
    server.loaded("a")
    assert server.enter("a").is_admitted


def test_no_more_wait_than_may_behind_a_model_that_makes_room_or_is_dismissed() -> None:
    server = _Server(6, *map(_resident, "ab"))
    server.serve("a")
    server.enter("a")
    for_b = server.enter("b")
    for _ in range(3):
        server.enter("a")
    with pytest.raises(QueueFull):
        server.enter("a")
    server.residency.withdraw("b", for_b)
    assert server.enter("a").is_admitted
    server.dismiss("a")
    for _ in range(3):
        server.enter("a")
    with pytest.raises(QueueFull):
        server.enter("a")


def test_models_make_room_though_their_requests_overlap_all_the_time() -> None:
    server = _three()
    for name in "ab":
        server.enter(name)
        server.loaded(name)
        server.enter(name)
    for_c = server.enter("c")
    for name in "ababab":
        server.now_s += 1
        server.residency.leave(name)
        if server.loader.unloading:
            break
        server.enter(name)
    assert server.loader.unloading == {"a"}
    server.unloaded("a")
    server.loaded("c")
    assert for_c.is_admitted


def test_what_a_request_says_of_its_models_time_ends_with_the_next_request() -> None:
    server = _Server(12, _resident("a", idle_s=10.0))
    server.serve("a")
    server.residency.keep("a", math.inf)
    assert server.residency.next_look_s() is None
    server.serve("a")
    assert server.residency.next_look_s() == server.now_s - 1 + 10


def test_what_is_said_of_a_model_that_is_not_loaded_does_not_count() -> None:
    server = _Server(12, _resident("a"))
    server.residency.keep("a", 0.0)
    server.want("a")
    server.loaded("a")
    server.residency.look()
    assert server.state("a") is ModelState.LOADED


def test_a_wish_for_a_model_that_goes_at_once_for_a_request_is_granted() -> None:
    server = _Server(6, *map(_resident, "ab"))
    wish = server.want("a")
    server.enter("b")
    assert not wish.is_over
    server.loaded("a")
    assert (wish.is_over, wish.error, server.state("a")) == (True, None, ModelState.UNLOADING)


def test_a_wish_to_unload_a_model_that_requests_wait_for_is_granted() -> None:
    server = _three()
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
    server = _Server(12, _resident("a", 8, is_pinned=True), _resident("b", 5), _resident("c", 4))
    server.serve("a")
    assert isinstance(server.want("b").error, ModelNotLoaded)
    wish = server.want("c")
    server.residency.failed("c", "no such file")
    assert "no such file" in str(wish.error), "which operators are told"
    assert server.dismiss("c").is_over


def test_the_last_of_two_operators_is_heard_and_the_first_is_told() -> None:
    server = _Server(6, *map(_resident, "ab"))
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


def test_nothing_is_decided_after_the_end() -> None:
    server = _Server(6, *map(_resident, "ab"))
    for_a, for_b, wish = server.enter("a"), server.enter("b"), server.want("b")
    server.residency.close()
    assert all(isinstance(each.error, EngineStopped) for each in (for_a, for_b, wish))
    server.loaded("a")
    server.residency.look()
    assert not server.loader.unloading
    for call in (server.enter, server.want, server.dismiss):
        with pytest.raises(EngineStopped):
            call("a")


def test_an_operator_loads_and_unloads() -> None:
    server = _three()
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
    server = _three()
    waiting = server.enter("a")
    server.dismiss("a")
    behind = server.enter("a")
    server.loaded("a")
    late = server.enter("a")
    assert (waiting.is_admitted, behind.is_admitted, late.is_over) == (True, True, False)
    server.residency.leave("a")
    server.residency.leave("a")
    assert server.loader.unloading == {"a"}


def test_what_was_measured_counts_from_then_on() -> None:
    server = _Server(12, _resident("a", 10), _resident("b", 6))
    server.enter("a")
    server.loaded("a", 4)
    server.enter("b")
    assert server.loader.loading == {"b"}, "beside one that needs less than was expected"
    server.loaded("b", 9)
    server.residency.leave("b")
    server.dismiss("b")
    server.unloaded("b")
    server.enter("b")
    assert not server.loader.loading, "it needs more than was expected"


LIMIT = 10
NEEDS = {"a": 6, "b": 6, "c": 3, "d": 9}


class Requests(RuleBasedStateMachine):
    """Requests, operators, failures and time in any order, against what must hold of every request."""

    def __init__(self) -> None:
        super().__init__()
        residents = [_resident(name, need, idle_s=5.0 if name == "c" else None) for name, need in NEEDS.items()]
        self.server = _Server(LIMIT, *residents)
        self.waiting: list[tuple[str, Waiter, list[None]]] = []  # the last has an item for each notification
        self.running: list[str] = []
        self.wishes: list[tuple[Wish, list[None]]] = []

    def _sort(self) -> None:
        """Tell those that were admitted, of models that are loaded, from those that wait."""
        for name, waiter, notified in self.waiting:
            assert len(notified) == waiter.is_over
            if waiter.is_admitted:
                assert self.server.state(name) is ModelState.LOADED, "admitted while its model is loaded"
                self.running.append(name)
        self.waiting = [each for each in self.waiting if not each[1].is_over]

    @rule(name=st.sampled_from(sorted(NEEDS)))
    def enter(self, name: str) -> None:
        notified: list[None] = []
        try:
            waiter = self.server.residency.enter(name, lambda: notified.append(None))
        except HeadraceError:
            assert not notified
            return
        self.waiting.append((name, waiter, notified))
        self._sort()

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.server.residency.leave(self.running.pop(data.draw(st.integers(0, len(self.running) - 1))))
        self._sort()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        name, waiter, _ = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        self.server.residency.withdraw(name, waiter)
        self._sort()

    @rule(name=st.sampled_from(sorted(NEEDS)), is_load=st.booleans())
    def ask_as_operator(self, name: str, is_load: bool) -> None:
        notified: list[None] = []
        ask = self.server.residency.want if is_load else self.server.residency.dismiss
        self.wishes.append((ask(name, lambda: notified.append(None)), notified))
        self._sort()

    @rule(name=st.sampled_from(sorted(NEEDS)), seconds=st.sampled_from([0.0, 3.0, math.inf]))
    def keep(self, name: str, seconds: float) -> None:
        self.server.residency.keep(name, seconds)

    @precondition(lambda self: self.server.loader.loading)
    @rule(data=st.data(), measured=st.sampled_from([None, -1, 1]))
    def end_load(self, data: st.DataObject, measured: int | None) -> None:
        name = data.draw(st.sampled_from(sorted(self.server.loader.loading)))
        self.server.loaded(name, None if measured is None else min(LIMIT, NEEDS[name] + measured))
        self._sort()

    @precondition(lambda self: self.server.loader.loading)
    @rule(data=st.data())
    def fail_to_load(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.server.loader.loading)))
        self.server.loader.loading.remove(name)
        self.server.residency.failed(name, "broken")
        self._sort()

    @rule(name=st.sampled_from(sorted(NEEDS)))
    def lose_engine(self, name: str) -> None:
        if self.server.state(name) is ModelState.LOADED:
            self.server.residency.failed(name, "killed")
            self._sort()

    @precondition(lambda self: self.server.loader.unloading)
    @rule(data=st.data())
    def end_unload(self, data: st.DataObject) -> None:
        self.server.unloaded(data.draw(st.sampled_from(sorted(self.server.loader.unloading))))
        self._sort()

    @rule(seconds=st.sampled_from([1.0, 6.0, 20.0]))
    def pass_time(self, seconds: float) -> None:
        self.server.now_s += seconds
        self.server.residency.look()
        self._sort()

    @invariant()
    def it_holds(self) -> None:
        self.server.residency.check()
        running = Counter(self.running)
        for name in NEEDS:
            assert self.server.residency[name].num_users == running[name]
        assert sum(len(self.server.residency[name].waiters) for name in NEEDS) == len(self.waiting)
        assert all(len(notified) == wish.is_over for wish, notified in self.wishes)
        residents = [self.server.residency[name] for name in NEEDS]
        num_open = sum(len(each.load_wishes) + len(each.unload_wishes) for each in residents)
        assert num_open == sum(not wish.is_over for wish, _ in self.wishes)

    def teardown(self) -> None:
        """Where all that was begun ends, no request and no operator is left waiting."""
        for _ in range(1000):
            loader = self.server.loader
            if loader.loading:
                self.server.loaded(min(loader.loading))
            elif loader.unloading:
                self.server.unloaded(min(loader.unloading))
            elif self.running:
                self.server.residency.leave(self.running.pop())
            else:
                break
            self._sort()
            self.server.residency.check()
        assert not self.waiting
        assert not self.running
        assert all(wish.is_over for wish, _ in self.wishes)


TestRequests = Requests.TestCase
TestRequests.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
