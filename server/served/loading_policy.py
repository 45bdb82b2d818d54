"""Residency: which models are loaded, and which request waits for which; no more memory than there is."""

import itertools
import math
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from engine.errors import EngineStopped, EngineUnavailable, QueueFull
from server.served.failures import failure, forget_failure, next_retried, own_retry_s
from server.served.loadable_model import Claim, ModelState, Resident, Waiter
from server.served.memory_budget import Room
from server.served.pending_requests import Wish, grant, refuse


class Loader(Protocol):
    """Begins what takes time. Its end is told by `loaded`, `failed` or `unloaded`, later and not from within."""

    def load(self, name: str) -> None: ...

    def unload(self, name: str) -> None: ...


class Residency:
    """Call it from one thread; no method blocks.

    Whoever has waited longest comes first: its model gets the room that is free, then that of models without requests,
    the least recently used first, then that of models whose requests finish while new ones of theirs wait behind it.
    Lines of batches come behind all others, and get no room of models that clients use, or have just used.

    Invariants: what loading, loaded and unloading models need is at most the limit; a model is unloaded only while
    nobody uses it; a request is admitted only while its model is loaded; every waiter is admitted or refused, once, and
    every wish is granted or refused, once.
    """

    def __init__(
        self,
        residents: Iterable[Resident],
        limit_bytes: float,
        loader: Loader,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._residents = {each.name: each for each in residents}
        self._room = Room(self._residents.values(), limit_bytes)
        self._loader = loader
        self._now = now
        self._numbers = itertools.count()
        self._closing: set[str] = set()  # models that admit nobody, since another one is to have their room
        self._is_closed = False

    def __getitem__(self, name: str) -> Resident:
        return self._residents[name]

    @property
    def limit_bytes(self) -> float:
        return self._room.limit_bytes

    @property
    def used_bytes(self) -> int:
        return self._room.used_bytes

    # --- requests -----------------------------------------------------------------------------------------------------

    def enter(self, name: str, notify: Callable[[], None], *, is_batch: bool = False) -> Waiter:
        """Take a request, which uses the model from its admission to `leave`; it may be admitted at once.

        Raises QueueFull, ModelNotLoaded if the model cannot be loaded beside those that are pinned, EngineUnavailable
        if it was tried just now, and failed, and EngineStopped.
        """
        self._check_running()
        resident = self._residents[name]
        if resident.state is ModelState.FAILED:
            forget_failure(resident, self._now())
        if not self._is_open(resident):
            self._check_waiting(resident, is_batch=is_batch)
        resident.keep_s = None
        waiter = Waiter(next(self._numbers), notify, is_batch)
        resident.waiters.append(waiter)
        self._settle()
        return waiter

    def withdraw(self, name: str, waiter: Waiter) -> None:
        """The request is gone, whether it was admitted or not."""
        resident = self._residents[name]
        if waiter.is_admitted:
            self.leave(name, is_batch=waiter.is_batch)
        elif waiter.error is None:
            resident.waiters.remove(waiter)
            self._settle()

    def leave(self, name: str, *, is_batch: bool = False) -> None:
        """An admitted request is over."""
        resident = self._residents[name]
        assert resident.num_users > 0, "nobody leaves who was not admitted"
        resident.num_users -= 1
        resident.used_s = self._now()
        if not is_batch:
            resident.num_clients -= 1
            resident.client_used_s = resident.used_s
        self._settle()

    def keep(self, name: str, seconds: float) -> None:
        """Unload the model so long after the request that says so, if that is its last; infinite is never."""
        resident = self._residents[name]
        if resident.state in (ModelState.LOADING, ModelState.LOADED):
            resident.keep_s = seconds

    # --- operators ----------------------------------------------------------------------------------------------------

    def want(self, name: str, notify: Callable[[], None]) -> Wish:
        """Load the model though nobody asks for it yet. A failure before is forgotten. Raises EngineStopped."""
        self._check_running()
        resident = self._residents[name]
        resident.must_unload = False
        if resident.state is not ModelState.UNLOADING:
            refuse(resident.unload_wishes, lambda: EngineUnavailable("another operator asked to keep the model loaded"))
        wish = Wish(notify)
        resident.load_wishes.append(wish)
        if resident.state is ModelState.LOADED:
            grant(resident.load_wishes)
        elif resident.state is not ModelState.LOADING:
            if resident.state is ModelState.FAILED:
                resident.state = ModelState.UNLOADED
            resident.is_wanted = True
        self._settle()
        return wish

    def dismiss(self, name: str, notify: Callable[[], None]) -> Wish:
        """Unload the model when its requests are over; those that come meanwhile wait, and load it again.

        Raises EngineStopped.
        """
        self._check_running()
        resident = self._residents[name]
        resident.is_wanted = False
        if resident.state is not ModelState.LOADING:  # which is loaded first, for those that wait for it
            refuse(resident.load_wishes, lambda: EngineUnavailable("another operator asked to unload the model"))
        wish = Wish(notify)
        resident.unload_wishes.append(wish)
        if resident.state in (ModelState.UNLOADED, ModelState.FAILED):
            grant(resident.unload_wishes)
        resident.must_unload = resident.state in (ModelState.LOADING, ModelState.LOADED)
        self._settle()
        return wish

    # --- the loader ---------------------------------------------------------------------------------------------------

    def loaded(self, name: str, need_bytes: int | None = None) -> None:
        """need_bytes: as measured; if that is more than was expected, it counts from the next time on."""
        resident = self._residents[name]
        assert resident.state is ModelState.LOADING
        resident.state = ModelState.LOADED
        resident.used_s = self._now()
        resident.load_s = resident.used_s - resident.began_s
        resident.num_failures = 0
        resident.measured_bytes = need_bytes
        if need_bytes is not None:
            resident.need_bytes = min(resident.need_bytes, need_bytes)
        self._admit(resident)  # before it makes room for others: for these it was loaded
        grant(resident.load_wishes)
        self._settle()

    def failed(self, name: str, reason: str) -> None:
        """It could not be loaded, or its engine has ended for good."""
        resident = self._residents[name]
        assert resident.state in (ModelState.LOADING, ModelState.LOADED)
        resident.state = ModelState.FAILED
        resident.reason = reason
        resident.failed_s = self._now()
        resident.num_failures += 1
        resident.must_unload = False
        resident.keep_s = None
        self._refuse(resident, lambda: failure(resident, self._now()))
        refuse(resident.load_wishes, lambda: EngineUnavailable(f"the model could not be loaded: {reason}"))
        grant(resident.unload_wishes)
        self._settle()

    def unloaded(self, name: str) -> None:
        resident = self._residents[name]
        assert resident.state is ModelState.UNLOADING
        resident.state = ModelState.UNLOADED
        resident.need_bytes = max(resident.need_bytes, resident.measured_bytes or 0)
        resident.must_unload = False
        grant(resident.unload_wishes)
        self._settle()

    def close(self) -> None:
        """Refuse all that waits, and decide nothing any more."""
        self._is_closed = True
        for resident in self._residents.values():
            self._refuse(resident, _stopped)
            refuse(resident.load_wishes, _stopped)
            refuse(resident.unload_wishes, _stopped)

    # --- time ---------------------------------------------------------------------------------------------------------

    def next_look_s(self) -> float | None:
        """When `look` has something to do, on the clock; None: not before something else happens."""
        times = [
            each.used_s + limit_s
            for each in self._residents.values()
            if each.state is ModelState.LOADED and not each.num_users and not each.is_pinned
            if (limit_s := each.idle_limit_s) is not None and math.isfinite(limit_s)
        ]
        if any(claim.is_batch for claim, _ in self._claims()):
            now_s = self._now()
            loaded = (each for each in self._residents.values() if each.state is ModelState.LOADED)
            spared = (each.spared_until_s for each in loaded if not each.is_pinned)
            times += [until_s for until_s in spared if now_s < until_s < math.inf]
        if (retried := next_retried(self._residents.values())) is not None:
            times.append(own_retry_s(retried))
        return min(times, default=None)

    def look(self) -> None:
        """Unload what has been idle for long enough, and try one again if all have failed."""
        retried = next_retried(self._residents.values())
        if retried is not None and self._now() >= own_retry_s(retried) and not self._is_closed:
            retried.state = ModelState.UNLOADED
            retried.is_wanted = True
        self._settle()

    # --- decisions ----------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Do all that can be done now."""
        if self._is_closed:
            return
        closed_before, self._closing = self._closing, set()
        for claim, resident in self._claims():
            if not self._make_room(resident, closed_before, is_batch=claim.is_batch):
                break  # those behind it would take what is freed for it
        for resident in self._residents.values():
            if resident.state is ModelState.LOADED:
                self._settle_loaded(resident)

    def _claims(self) -> list[tuple[Claim, Resident]]:
        """In order."""
        claims = [(claim, each) for each in self._residents.values() if (claim := each.claim) is not None]
        return sorted(claims, key=lambda each: each[0])

    def _is_open(self, resident: Resident) -> bool:
        """Whether it admits requests."""
        is_loaded = resident.state is ModelState.LOADED
        return is_loaded and resident.name not in self._closing and not resident.must_unload

    def _settle_loaded(self, resident: Resident) -> None:
        is_open = self._is_open(resident)
        if is_open:
            self._admit(resident)
        if not resident.num_users and (not is_open or self._is_idle(resident)):
            resident.keep_s = None
            resident.state = ModelState.UNLOADING
            self._loader.unload(resident.name)

    def _admit(self, resident: Resident) -> None:
        while resident.waiters:
            waiter = resident.waiters.popleft()
            resident.num_users += 1
            resident.num_clients += not waiter.is_batch
            waiter.is_admitted = True
            waiter.notify()

    def _is_idle(self, resident: Resident) -> bool:
        limit_s = resident.idle_limit_s
        return limit_s is not None and not resident.is_pinned and self._now() - resident.used_s >= limit_s

    def _make_room(self, claim: Resident, closed_before: set[str], *, is_batch: bool) -> bool:
        """Begin to load the model, or to empty what is in its way. False: it has to wait for that. One of a batch that
        has to wait for clients holds up none behind it.

        closed_before: models that go on finishing their requests: were others chosen each time, none would be done.
        """
        if claim.need_bytes > self._room.obtainable_bytes(claim):
            claim.is_wanted = False
            self._refuse(claim, lambda: self._room.refusal(claim))
            refuse(claim.load_wishes, lambda: self._room.refusal(claim))
            return True
        if claim.need_bytes <= self._room.free_bytes:
            claim.state = ModelState.LOADING
            claim.is_wanted = False
            claim.began_s = self._now()
            self._loader.load(claim.name)
            return True
        victims = self._room.victims(claim, closed_before, self._now(), is_batch=is_batch)
        if victims is None:
            return True
        self._closing.update(each.name for each in victims)
        return False

    # --- refusals -----------------------------------------------------------------------------------------------------

    def _check_running(self) -> None:
        if self._is_closed:
            raise _stopped()

    def _check_waiting(self, resident: Resident, *, is_batch: bool) -> None:
        if not is_batch and (num_waiting := resident.num_waiting_clients) >= resident.max_waiting:
            raise QueueFull(
                f"too many requests wait for the model: {num_waiting} (--max-num-waiting); try again later",
                retry_after_s=resident.retry_after_s,
            )
        if resident.state is ModelState.UNLOADED and resident.need_bytes > self._room.obtainable_bytes(resident):
            raise self._room.refusal(resident)

    def _refuse(self, resident: Resident, error: Callable[[], Exception]) -> None:
        while resident.waiters:
            waiter = resident.waiters.popleft()
            waiter.error = error()
            waiter.notify()

    def check(self) -> None:
        """Assert the invariants."""
        assert self._room.free_bytes >= 0, "no more memory than there is"
        for each in self._residents.values():
            assert 0 <= each.num_clients <= each.num_users
            assert not any(waiter.is_over for waiter in each.waiters)
            if each.state is ModelState.UNLOADING:
                assert not each.num_users, "nobody uses what is unloaded"
            if each.state is ModelState.LOADED and each.waiters:
                assert each.name in self._closing or each.must_unload, "a loaded model makes nobody wait but for others"
            assert not any(wish.is_over for wish in (*each.load_wishes, *each.unload_wishes))
            if each.load_wishes:
                assert each.is_wanted or each.state is ModelState.LOADING, "a wish that nothing would grant"
            if each.unload_wishes:
                assert each.must_unload or each.state is ModelState.UNLOADING, "a wish that nothing would grant"


def _stopped() -> EngineStopped:
    return EngineStopped("the server is being stopped")
