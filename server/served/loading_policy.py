"""LoadingPolicy: decides which models are loaded and which requests are admitted, within a memory limit."""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from engine.errors import EngineStopped, EngineUnavailable, QueueFull
from server.served.loadable_model import LoadableModel, LoadPriority, ModelState
from server.served.memory_budget import MemoryBudget
from server.served.pending_requests import OperatorRequest, Waiter, complete, refuse


class Loader(Protocol):
    """Starts loads and unloads. Reports their completion to the policy later, never from within these calls."""

    def start_load(self, name: str) -> None: ...

    def start_unload(self, name: str) -> None: ...


class LoadingPolicy:
    """State machine that decides which models are loaded. Call it from one thread; no method blocks.

    The request that has waited longest comes first. Its model gets free memory, then the memory of models without
    requests, least recently used first, then the memory of models in use, whose running requests finish while new ones
    wait. Lines of batches come after all clients, and displace no model that clients use or have just used.

    Invariants: the memory of loading, loaded and unloading models is at most the limit; a model is unloaded only while
    no request uses it; a request is admitted only while its model is loaded; every waiter is admitted or refused, once;
    every operator's request succeeds or fails, once.
    """

    def __init__(
        self,
        models: Iterable[LoadableModel],
        limits: Mapping[str, float],
        loader: Loader,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._models = {each.name: each for each in models}
        self._budget = MemoryBudget(self._models.values(), limits)
        self._loader = loader
        self._now = now
        self._numbers = itertools.count()
        self._draining: set[str] = set()  # models that admit no requests, to be unloaded for another one
        self._is_closed = False

    def __getitem__(self, name: str) -> LoadableModel:
        return self._models[name]

    @property
    def budget(self) -> MemoryBudget:
        """The memory of all models."""
        return self._budget

    # --- requests -----------------------------------------------------------------------------------------------------

    def acquire(self, name: str, notify: Callable[[], None], *, is_batch: bool = False) -> Waiter:
        """Queue a request for the model. Once admitted, perhaps at this call, it uses the model until `release`.

        Raises QueueFull, ModelNotLoaded if the model does not fit beside the pinned models, EngineUnavailable if its
        last load has just failed, and EngineStopped.
        """
        self._check_running()
        model = self._models[name]
        if model.state is ModelState.FAILED:
            model.clear_failure(self._now())
        if not self._is_admitting(model):
            self._check_waiting(model, is_batch=is_batch)
        model.keep_alive_s = None
        waiter = Waiter(next(self._numbers), notify, is_batch)
        model.waiters.append(waiter)
        self._advance()
        return waiter

    def withdraw(self, name: str, waiter: Waiter) -> None:
        """Remove a request whose client disconnected, whether it was admitted or not."""
        model = self._models[name]
        if waiter.is_admitted:
            self.release(name, is_batch=waiter.is_batch)
        elif waiter.error is None:
            model.waiters.remove(waiter)
            self._advance()

    def release(self, name: str, *, is_batch: bool = False) -> None:
        """Note that an admitted request has ended."""
        model = self._models[name]
        assert model.num_users > 0, "a request that was not admitted is released"
        model.num_users -= 1
        model.used_s = self._now()
        if not is_batch:
            model.num_clients -= 1
            model.client_used_s = model.used_s
        self._advance()

    def set_keep_alive(self, name: str, seconds: float) -> None:
        """Unload the model once idle for `seconds`; infinity means never. This lasts until the model's next request."""
        model = self._models[name]
        if model.state in (ModelState.LOADING, ModelState.LOADED):
            model.keep_alive_s = seconds

    # --- operators ----------------------------------------------------------------------------------------------------

    def request_load(self, name: str, notify: Callable[[], None]) -> OperatorRequest:
        """Load the model for an operator, even if it has just failed. Raises EngineStopped."""
        self._check_running()
        model = self._models[name]
        model.must_unload = False
        if model.state is not ModelState.UNLOADING:
            refuse(model.unload_requests, lambda: EngineUnavailable("another operator asked to keep the model loaded"))
        request = OperatorRequest(notify)
        model.load_requests.append(request)
        if model.state is ModelState.LOADED:
            complete(model.load_requests)
        elif model.state is not ModelState.LOADING:
            if model.state is ModelState.FAILED:
                model.state = ModelState.UNLOADED
            model.is_load_requested = True
        self._advance()
        return request

    def request_unload(self, name: str, notify: Callable[[], None]) -> OperatorRequest:
        """Unload the model for an operator once its requests end. Later requests reload it. Raises EngineStopped."""
        self._check_running()
        model = self._models[name]
        model.is_load_requested = False
        if model.state is not ModelState.LOADING:  # a loading model first serves the requests that wait for it
            refuse(model.load_requests, lambda: EngineUnavailable("another operator asked to unload the model"))
        request = OperatorRequest(notify)
        model.unload_requests.append(request)
        if model.state is ModelState.FAILED:
            model.state = ModelState.UNLOADED  # so that the server does not try it again by itself
        if model.state is ModelState.UNLOADED:
            complete(model.unload_requests)
        model.must_unload = model.state in (ModelState.LOADING, ModelState.LOADED)
        self._advance()
        return request

    # --- reports of the loader ----------------------------------------------------------------------------------------

    def on_loaded(self, name: str, need_bytes: int | None = None) -> None:
        """Mark the model as loaded and admit its requests.

        need_bytes: the measured memory. If it is more than expected, it counts only from the next load on.
        """
        model = self._models[name]
        assert model.state is ModelState.LOADING
        model.state = ModelState.LOADED
        model.used_s = self._now()
        model.load_s = model.used_s - model.load_started_s
        model.num_failures = 0
        model.measured_bytes = need_bytes
        if need_bytes is not None:
            model.need_bytes = min(model.need_bytes, need_bytes)
        self._admit(model)  # before it is unloaded for another model: it was loaded for these requests
        complete(model.load_requests)
        self._advance()

    def on_failed(self, name: str, reason: str, *, is_for_good: bool = False, is_public: bool = False) -> None:
        """Mark the model as failed: it could not be loaded, or its engine died and is not restarted. If an operator
        has asked to unload it, it is unloaded instead, so that the server does not try it again by itself.

        is_for_good: its files or options are the cause, so that clients need not try again. is_public: clients may see
        the reason.
        """
        model = self._models[name]
        assert model.state in (ModelState.LOADING, ModelState.LOADED)
        model.state = ModelState.UNLOADED if model.must_unload else ModelState.FAILED
        model.reason = reason
        model.failed_s = self._now()
        model.has_failed_for_good = is_for_good
        model.is_reason_public = is_public
        model.num_failures += 1
        model.must_unload = False
        model.keep_alive_s = None
        self._refuse(model, lambda: model.failure(self._now()))
        refuse(model.load_requests, lambda: EngineUnavailable(f"the model could not be loaded: {reason}"))
        complete(model.unload_requests)
        self._advance()

    def on_unloaded(self, name: str) -> None:
        model = self._models[name]
        assert model.state is ModelState.UNLOADING
        model.state = ModelState.UNLOADED
        model.need_bytes = max(model.need_bytes, model.measured_bytes or 0)
        model.must_unload = False
        complete(model.unload_requests)
        self._advance()

    def close(self) -> None:
        """Refuse all waiting requests, and all later ones."""
        self._is_closed = True
        for model in self._models.values():
            self._refuse(model, _stopped)
            refuse(model.load_requests, _stopped)
            refuse(model.unload_requests, _stopped)

    # --- time ---------------------------------------------------------------------------------------------------------

    def next_deadline_s(self) -> float | None:
        """Return the time at which to call `on_deadline`; None if there is nothing to do without another event."""
        times = [
            each.used_s + limit_s
            for each in self._models.values()
            if each.state is ModelState.LOADED and not each.num_users and not each.is_pinned
            if (limit_s := each.idle_limit_s) is not None and math.isfinite(limit_s)
        ]
        if any(priority.is_batch for priority, _ in self._models_to_load()):
            now_s = self._now()
            loaded = (each for each in self._models.values() if each.state is ModelState.LOADED)
            protected = (each.protected_until_s for each in loaded if not each.is_pinned)
            times += [until_s for until_s in protected if now_s < until_s < math.inf]
        if (retried := self._next_retried()) is not None:
            times.append(retried.own_retry_s)
        return min(times, default=None)

    def on_deadline(self) -> None:
        """Unload models that have been idle for long enough, and reload a failed model whose time has come."""
        retried = self._next_retried()
        if retried is not None and self._now() >= retried.own_retry_s and not self._is_closed:
            retried.state = ModelState.UNLOADED
            retried.is_load_requested = True
        self._advance()

    def _next_retried(self) -> LoadableModel | None:
        """Return the failed model to reload first, without a request: load balancers send none to a model that is not
        ready. Unless all models have failed, it is one whose failure may pass, and displaces no other model. None while
        a model is loading, or while a client or operator waits for memory that is being freed."""
        if any(each.state is ModelState.LOADING for each in self._models.values()):
            return None
        if any(not priority.is_batch for priority, _ in self._models_to_load()):
            return None
        failed = [each for each in self._models.values() if each.state is ModelState.FAILED]
        if len(failed) < len(self._models):
            failed = [each for each in failed if not each.has_failed_for_good and self._budget.fits(each)]
        return min(failed, key=lambda each: each.own_retry_s, default=None)

    # --- decisions ----------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Load and unload models and admit requests, as far as the current state allows."""
        if self._is_closed:
            return
        draining_before, self._draining = self._draining, set()
        for priority, model in self._models_to_load():
            if not self._load(model, draining_before, is_batch=priority.is_batch):
                break  # the models after it would take the memory that is freed for it
        for model in self._models.values():
            if model.state is ModelState.LOADED:
                self._advance_loaded(model)

    def _models_to_load(self) -> list[tuple[LoadPriority, LoadableModel]]:
        """Return the models that requests or operators wait for, in the order in which to load them."""
        models = [(priority, each) for each in self._models.values() if (priority := each.load_priority) is not None]
        return sorted(models, key=lambda each: each[0])

    def _is_admitting(self, model: LoadableModel) -> bool:
        is_loaded = model.state is ModelState.LOADED
        return is_loaded and model.name not in self._draining and not model.must_unload

    def _advance_loaded(self, model: LoadableModel) -> None:
        is_admitting = self._is_admitting(model)
        if is_admitting:
            self._admit(model)
        if not model.num_users and (not is_admitting or self._is_idle(model)):
            model.keep_alive_s = None
            model.state = ModelState.UNLOADING
            self._loader.start_unload(model.name)

    def _admit(self, model: LoadableModel) -> None:
        while model.waiters:
            waiter = model.waiters.popleft()
            model.num_users += 1
            model.num_clients += not waiter.is_batch
            waiter.is_admitted = True
            waiter.notify()

    def _is_idle(self, model: LoadableModel) -> bool:
        limit_s = model.idle_limit_s
        return limit_s is not None and not model.is_pinned and self._now() - model.used_s >= limit_s

    def _load(self, model: LoadableModel, draining_before: set[str], *, is_batch: bool) -> bool:
        """Start to load the model, or drain other models to free memory for it.

        Return False if the model waits for that memory, so that models after it in the queue must wait too. Return
        True also if a batch's model waits until clients stop using other models.

        draining_before: names of models to prefer for draining; if the choice kept changing, none would become idle.
        """
        if model.need_bytes > self._budget.obtainable_bytes(model):
            model.is_load_requested = False
            self._refuse(model, lambda: self._budget.refusal(model))
            refuse(model.load_requests, lambda: self._budget.refusal(model))
            return True
        if self._budget.fits(model):
            model.state = ModelState.LOADING
            model.is_load_requested = False
            model.load_started_s = self._now()
            self._loader.start_load(model.name)
            return True
        others = self._budget.models_to_unload(model, draining_before, self._now(), is_batch=is_batch)
        if others is None:
            return True
        self._draining.update(each.name for each in others)
        return False

    # --- refusals -----------------------------------------------------------------------------------------------------

    def _check_running(self) -> None:
        if self._is_closed:
            raise _stopped()

    def _check_waiting(self, model: LoadableModel, *, is_batch: bool) -> None:
        if not is_batch and (num_waiting := model.num_waiting_clients) >= model.max_waiting:
            raise QueueFull(
                f"too many requests wait for the model: {num_waiting} (--max-num-waiting); try again later",
                retry_after_s=model.retry_after_s,
            )
        if model.state is ModelState.UNLOADED and model.need_bytes > self._budget.obtainable_bytes(model):
            raise self._budget.refusal(model)

    def _refuse(self, model: LoadableModel, error: Callable[[], Exception]) -> None:
        while model.waiters:
            waiter = model.waiters.popleft()
            waiter.error = error()
            waiter.notify()

    def check(self) -> None:
        """Assert the invariants."""
        for device in self._budget.limits:
            assert self._budget.free_bytes(device) >= 0, f"models use more memory than the limit of {device}"
        for each in self._models.values():
            assert 0 <= each.num_clients <= each.num_users
            assert not any(waiter.is_done for waiter in each.waiters)
            if each.state is ModelState.UNLOADING:
                assert not each.num_users, "a model in use is unloaded"
            if each.state is ModelState.LOADED and each.waiters:
                assert each.name in self._draining or each.must_unload, "requests wait for a loaded model"
            assert not any(request.is_done for request in (*each.load_requests, *each.unload_requests))
            if each.load_requests:
                assert each.is_load_requested or each.state is ModelState.LOADING, "no event would end the request"
            if each.unload_requests:
                assert each.must_unload or each.state is ModelState.UNLOADING, "no event would end the request"


def _stopped() -> EngineStopped:
    return EngineStopped("the server is being stopped")
