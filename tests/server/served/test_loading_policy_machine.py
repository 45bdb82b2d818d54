"""LoadingPolicy: requests, operators, failures and time in any order."""

import math
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engine.errors import HeadraceError
from server.served.loadable_model import ModelState, Waiter
from server.served.pending_requests import OperatorRequest
from tests.helpers.loading_policy import PolicyServer, loadable

pytestmark = pytest.mark.fast

LIMITS = {"cpu": 10.0, "cuda:0": 10.0}
NEEDS = {"a": 6, "b": 6, "c": 3, "d": 9, "e": 6, "f": 9}
ON_GPU = ("e", "f")


class Requests(RuleBasedStateMachine):
    """Requests, operators, failures and time in any order, against what must hold of every request."""

    def __init__(self) -> None:
        super().__init__()
        models = [
            loadable(name, need, idle_s=5.0 if name == "c" else None, device="cuda:0" if name in ON_GPU else "cpu")
            for name, need in NEEDS.items()
        ]
        self.server = PolicyServer(LIMITS, *models)
        self.waiting: list[tuple[str, Waiter, list[None]]] = []  # the last has an item for each notification
        self.running: list[tuple[str, bool]] = []  # and whether it is a batch's
        self.requests: list[tuple[OperatorRequest, list[None]]] = []

    def _sort(self) -> None:
        """Tell those that were admitted, of models that are loaded, from those that wait."""
        for name, waiter, notified in self.waiting:
            assert len(notified) == waiter.is_done
            if waiter.is_admitted:
                assert self.server.state(name) is ModelState.LOADED, "admitted while its model is loaded"
                self.running.append((name, waiter.is_batch))
        self.waiting = [each for each in self.waiting if not each[1].is_done]

    @rule(name=st.sampled_from(sorted(NEEDS)), is_batch=st.booleans())
    def enter(self, name: str, is_batch: bool) -> None:
        notified: list[None] = []
        try:
            waiter = self.server.policy.acquire(name, lambda: notified.append(None), is_batch=is_batch)
        except HeadraceError:
            assert not notified
            return
        self.waiting.append((name, waiter, notified))
        self._sort()

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self._leave(data.draw(st.integers(0, len(self.running) - 1)))

    def _leave(self, index: int) -> None:
        name, is_batch = self.running.pop(index)
        self.server.policy.release(name, is_batch=is_batch)
        self._sort()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        name, waiter, _ = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        self.server.policy.withdraw(name, waiter)
        self._sort()

    @rule(name=st.sampled_from(sorted(NEEDS)), is_load=st.booleans())
    def ask_as_operator(self, name: str, is_load: bool) -> None:
        notified: list[None] = []
        ask = self.server.policy.request_load if is_load else self.server.policy.request_unload
        self.requests.append((ask(name, lambda: notified.append(None)), notified))
        self._sort()

    @rule(name=st.sampled_from(sorted(NEEDS)), seconds=st.sampled_from([0.0, 3.0, math.inf]))
    def keep(self, name: str, seconds: float) -> None:
        self.server.policy.set_keep_alive(name, seconds)

    @precondition(lambda self: self.server.loader.loading)
    @rule(data=st.data(), measured=st.sampled_from([None, -1, 1]))
    def end_load(self, data: st.DataObject, measured: int | None) -> None:
        name = data.draw(st.sampled_from(sorted(self.server.loader.loading)))
        self.server.loaded(name, None if measured is None else min(10, NEEDS[name] + measured))
        self._sort()

    @precondition(lambda self: self.server.loader.loading)
    @rule(data=st.data())
    def fail_to_load(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.server.loader.loading)))
        self.server.loader.loading.remove(name)
        self.server.policy.on_failed(name, "broken")
        self._sort()

    @rule(name=st.sampled_from(sorted(NEEDS)))
    def lose_engine(self, name: str) -> None:
        if self.server.state(name) is ModelState.LOADED:
            self.server.policy.on_failed(name, "killed")
            self._sort()

    @precondition(lambda self: self.server.loader.unloading)
    @rule(data=st.data())
    def end_unload(self, data: st.DataObject) -> None:
        self.server.unloaded(data.draw(st.sampled_from(sorted(self.server.loader.unloading))))
        self._sort()

    @rule(seconds=st.sampled_from([1.0, 6.0, 20.0]))
    def pass_time(self, seconds: float) -> None:
        self.server.now_s += seconds
        self.server.policy.on_deadline()
        self._sort()

    @invariant()
    def it_holds(self) -> None:
        self.server.policy.check()
        running = Counter(name for name, _ in self.running)
        clients = Counter(name for name, is_batch in self.running if not is_batch)
        for name in NEEDS:
            assert self.server.policy[name].num_users == running[name]
            assert self.server.policy[name].num_clients == clients[name]
        assert sum(len(self.server.policy[name].waiters) for name in NEEDS) == len(self.waiting)
        assert all(len(notified) == request.is_done for request, notified in self.requests)
        models = [self.server.policy[name] for name in NEEDS]
        num_open = sum(len(each.load_requests) + len(each.unload_requests) for each in models)
        assert num_open == sum(not request.is_done for request, _ in self.requests)

    def teardown(self) -> None:
        """Where all that was begun ends, no request and no operator is left waiting, nor a line of a batch in time."""
        for _ in range(1000):
            loader = self.server.loader
            if loader.loading:
                self.server.loaded(min(loader.loading))
            elif loader.unloading:
                self.server.unloaded(min(loader.unloading))
            elif self.running:
                self._leave(-1)
            elif self.waiting:
                at_s = self.server.policy.next_deadline_s()
                assert at_s is not None, "nothing will let it on"
                self.pass_time(max(0.0, at_s - self.server.now_s))
            else:
                break
            self._sort()
            self.server.policy.check()
        assert not self.waiting
        assert not self.running
        assert all(request.is_done for request, _ in self.requests)


TestRequests = Requests.TestCase
TestRequests.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
