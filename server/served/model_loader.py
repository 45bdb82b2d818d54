"""Residence: the models of one server as they come and go, for whoever waits for one."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from engine.client.interface import EngineClient
from engine.errors import HeadraceError
from engine.protocol import EngineInfo
from server.errors import ModelNotLoaded
from server.served.engine_slot import EngineSlot
from server.served.loadable_model import Resident
from server.served.loading_policy import Residency
from server.served.memory_plan import PROCESS_BYTES
from server.served.pending_requests import Wish

logger = logging.getLogger(__name__)


class Engine(EngineClient, Protocol):
    """An engine that can be started and stopped."""

    async def start(self) -> None: ...

    async def wait_ready(self) -> EngineInfo: ...

    async def wait_dead(self) -> str: ...

    async def stop(self) -> None: ...


@dataclass(slots=True)
class Home:
    """What one model needs to be loaded. prepare: what has to be there beside its engine before requests can be
    answered; called when that is ready."""

    resident: Resident
    slot: EngineSlot
    make_engine: Callable[[], Engine]
    prepare: Callable[[], Awaitable[object]]
    engine: Engine | None = None
    task: asyncio.Task[None] | None = None  # that loads the model, and then waits for its engine's end


class Residence:
    """Asks Residency what is to be done, and does it. All methods run on one event loop."""

    def __init__(self, homes: dict[str, Home], limit_bytes: float, *, load_timeout_s: float) -> None:
        self._homes = homes
        for home in homes.values():
            home.slot.empty()
        self._load_timeout_s = load_timeout_s
        self._residency = Residency([home.resident for home in homes.values()], limit_bytes, self)
        self._timer: asyncio.TimerHandle | None = None
        self._unloads: set[asyncio.Task[None]] = set()
        self._is_closed = False

    # --- requests -----------------------------------------------------------------------------------------------------

    def resident(self, name: str) -> Resident:
        return self._residency[name]

    @property
    def limit_bytes(self) -> float:
        return self._residency.limit_bytes

    @property
    def used_bytes(self) -> int:
        return self._residency.used_bytes

    async def enter(self, name: str, *, is_batch: bool = False) -> None:
        """Return when the model is loaded, which it stays until `leave`. is_batch: for a line of a batch.

        Raises QueueFull, ModelNotLoaded if it could not be loaded in time, EngineUnavailable, and EngineStopped.
        """
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def notify() -> None:
            if not admitted.done():  # the request may be gone
                admitted.set_result(None)

        waiter = self._residency.enter(name, notify, is_batch=is_batch)
        self._look_later()
        try:
            async with asyncio.timeout(None if admitted.done() else self._load_timeout_s):
                await admitted
        except BaseException as error:
            self._residency.withdraw(name, waiter)
            self._look_later()
            if isinstance(error, TimeoutError):
                raise self._too_late(name) from None
            raise
        if waiter.error is not None:
            raise waiter.error

    def leave(self, name: str, *, is_batch: bool = False) -> None:
        self._residency.leave(name, is_batch=is_batch)
        self._look_later()

    def keep(self, name: str, seconds: float) -> None:
        """Unload the model so long after the request that says so, if that is its last; infinite is never."""
        self._residency.keep(name, seconds)
        self._look_later()

    def _too_late(self, name: str) -> ModelNotLoaded:
        return ModelNotLoaded(
            f"the model could not be loaded within {self._load_timeout_s:g} s (--load-timeout); try again later",
            retry_after_s=self._residency[name].load_s,
        )

    # --- operators ----------------------------------------------------------------------------------------------------

    async def want(self, name: str) -> None:
        """Have the model loaded, and return when it is, or was for a moment, until another one got its room.

        Raises ModelNotLoaded if it does not fit beside those that stay, EngineUnavailable if it cannot be loaded or
        another operator has it unloaded, and EngineStopped.
        """
        await self._granted(partial(self._residency.want, name))

    async def dismiss(self, name: str) -> None:
        """Have the model unloaded, and return when it is, or was, until a request had it loaded again.

        Raises EngineUnavailable if another operator has it stay, and EngineStopped.
        """
        await self._granted(partial(self._residency.dismiss, name))

    async def _granted(self, ask: Callable[[Callable[[], None]], Wish]) -> None:
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def notify() -> None:
            if not over.done():  # the operator may be gone
                over.set_result(None)

        wish = ask(notify)
        self._look_later()
        await over
        if wish.error is not None:
            raise wish.error

    # --- Loader -------------------------------------------------------------------------------------------------------

    def load(self, name: str) -> None:
        home = self._homes[name]
        home.engine = engine = home.make_engine()
        home.slot.fill(engine)
        logger.info("loading the model %s", name)
        home.task = asyncio.create_task(self._live(name, home, engine), name=f"model {name}")

    def unload(self, name: str) -> None:
        home = self._homes[name]
        engine, task = home.engine, home.task
        assert engine is not None
        assert task is not None
        home.engine = None
        home.slot.empty()
        logger.info("unloading the model %s", name)
        unload = asyncio.create_task(self._unload(name, engine, task), name=f"unload {name}")
        self._unloads.add(unload)
        unload.add_done_callback(self._unloads.discard)

    async def _unload(self, name: str, engine: Engine, task: "asyncio.Task[None]") -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await _stop(name, engine)
        if not self._is_closed:
            self._residency.unloaded(name)
            self._look_later()

    async def _live(self, name: str, home: Home, engine: Engine) -> None:
        """Load the model, and wait for its engine's end. One that fails takes nothing with it."""
        try:
            await engine.start()
            info = await engine.wait_ready()
            home.slot.engine_is_ready()
            await home.prepare()
        except HeadraceError as error:
            await self._fail(name, home, engine, "could not be loaded", str(error))
            return
        except Exception:
            logger.exception("loading the model %s failed with an internal error", name)
            await self._fail(name, home, engine, "could not be loaded", "an internal error; the log has the details")
            return
        need_bytes = info.weight_bytes + info.adapter_bytes + info.kv_bytes + PROCESS_BYTES
        if 0 < home.resident.need_bytes < need_bytes:
            expected = home.resident.need_bytes
            logger.warning("the model %s takes %d MiB, where %d were expected", name, need_bytes >> 20, expected >> 20)
        self._residency.loaded(name, need_bytes)
        logger.info("the model %s is loaded, in %.1f s", name, home.resident.load_s)
        self._look_later()
        await self._fail(name, home, engine, "is not served any more", await engine.wait_dead())

    async def _fail(self, name: str, home: Home, engine: Engine, what: str, reason: str) -> None:
        await _stop(name, engine)
        if self._is_closed:
            return
        home.engine = None
        home.slot.empty(reason)
        logger.error("the model %s %s: %s", name, what, reason)
        self._residency.failed(name, reason)
        self._look_later()

    # --- time ---------------------------------------------------------------------------------------------------------

    def _look_later(self) -> None:
        """Look again when the next model has been idle for long enough."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at_s = self._residency.next_look_s()
        if at_s is not None and not self._is_closed:
            self._timer = asyncio.get_running_loop().call_at(at_s, self._look)  # whose clock is time.monotonic(), too

    def _look(self) -> None:
        self._residency.look()
        self._look_later()

    async def close(self) -> None:
        """Stop all engines at once; streams still open raise EngineStopped, and so does who waits for a model."""
        self._is_closed = True
        self._residency.close()
        self._look_later()
        engines = [home.engine for home in self._homes.values() if home.engine is not None]
        await asyncio.gather(*(engine.stop() for engine in engines), *self._unloads)
        for home in self._homes.values():
            if home.task is not None:
                home.task.cancel()
                await asyncio.gather(home.task, return_exceptions=True)


async def _stop(name: str, engine: Engine) -> None:
    """Stop the engine. What goes wrong with that is logged: the model is done with either way."""
    try:
        await engine.stop()
    except Exception:
        logger.exception("stopping the engine of the model %s", name)
