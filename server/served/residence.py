"""Residence: the models of one server as they come and go, for whoever waits for one."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from engine.client.interface import EngineClient
from engine.errors import HeadraceError
from engine.protocol import EngineInfo
from server.errors import ModelNotLoaded
from server.served.engine_slot import EngineSlot
from server.served.memory import PROCESS_BYTES
from server.served.residency import ModelState, Residency, Resident

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
        self._changed = asyncio.Event()
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

    async def enter(self, name: str) -> None:
        """Return when the model is loaded, which it stays until `leave`.

        Raises QueueFull, ModelNotLoaded if it could not be loaded in time, and EngineUnavailable.
        """
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def notify() -> None:
            if not admitted.done():  # the request may be gone
                admitted.set_result(None)

        waiter = self._residency.enter(name, notify)
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

    def leave(self, name: str) -> None:
        self._residency.leave(name)
        self._look_later()

    def keep(self, name: str, seconds: float) -> None:
        """Unload the model so long after its last request; infinite is never."""
        self._residency.keep(name, seconds)
        self._look_later()

    def _too_late(self, name: str) -> ModelNotLoaded:
        return ModelNotLoaded(
            f"the model {name!r} could not be loaded within {self._load_timeout_s:g} s (--load-timeout); "
            "others are in use; try again later",
            retry_after_s=self._residency[name].load_s,
        )

    # --- operators ----------------------------------------------------------------------------------------------------

    def want(self, name: str) -> None:
        self._residency.want(name)
        self._tell()

    def dismiss(self, name: str) -> None:
        self._residency.dismiss(name)
        self._tell()

    async def settled(self, name: str, *, is_loaded: bool) -> None:
        """Return when the model is loaded or unloaded, as is wanted, or has failed."""
        wanted = ModelState.LOADED if is_loaded else ModelState.UNLOADED
        while self._residency[name].state not in (wanted, ModelState.FAILED):
            self._changed.clear()
            await self._changed.wait()

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
        await engine.stop()
        if not self._is_closed:
            self._residency.unloaded(name)
            self._tell()

    async def _live(self, name: str, home: Home, engine: Engine) -> None:
        """Load the model, and wait for its engine's end. One that fails takes nothing with it."""
        try:
            await engine.start()
            info = await engine.wait_ready()
            home.slot.engine_is_ready()
            await home.prepare()
        except HeadraceError as error:
            await self._fail(name, home, engine, str(error))
            return
        need_bytes = info.weight_bytes + info.kv_bytes + PROCESS_BYTES
        if 0 < home.resident.need_bytes < need_bytes:
            expected = home.resident.need_bytes
            logger.warning("the model %s takes %d MiB, where %d were expected", name, need_bytes >> 20, expected >> 20)
        self._residency.loaded(name, need_bytes)
        logger.info("the model %s is loaded, in %.1f s", name, home.resident.load_s)
        self._tell()
        await self._fail(name, home, engine, await engine.wait_dead())

    async def _fail(self, name: str, home: Home, engine: Engine, reason: str) -> None:
        await engine.stop()
        home.engine = None
        home.slot.empty(reason)
        logger.error("the model %s is not served any more: %s", name, reason)
        self._residency.failed(name, reason)
        self._tell()

    # --- time ---------------------------------------------------------------------------------------------------------

    def _tell(self) -> None:
        self._changed.set()
        self._look_later()

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
        self._tell()

    async def close(self) -> None:
        """Stop all engines at once; streams still open raise EngineStopped."""
        self._is_closed = True
        self._look_later()
        engines = [home.engine for home in self._homes.values() if home.engine is not None]
        await asyncio.gather(*(engine.stop() for engine in engines), *self._unloads)
        for home in self._homes.values():
            if home.task is not None:
                home.task.cancel()
                await asyncio.gather(home.task, return_exceptions=True)
