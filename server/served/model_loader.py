"""ModelLoader: starts and stops the engines of models that are loaded on demand, as LoadingPolicy decides."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from engine.client.interface import EngineClient
from engine.errors import HeadraceError, ModelUnusable, OptionError, TextUnusable
from engine.kv_tiers.tier import most_moving_bytes
from engine.protocol import EngineInfo
from server.errors import ModelNotLoaded
from server.served.engine_slot import EngineSlot
from server.served.loadable_model import LoadableModel
from server.served.loading_policy import LoadingPolicy
from server.served.memory_plan import HOST, process_bytes
from server.served.pending_requests import OperatorRequest

logger = logging.getLogger(__name__)


class StartableEngine(EngineClient, Protocol):
    async def start(self) -> None: ...

    async def wait_ready(self) -> EngineInfo: ...

    async def wait_dead(self) -> str: ...

    async def stop(self) -> None: ...


@dataclass(slots=True)
class ManagedEngine:
    """The engine of one model, started and stopped on demand. prepare: called before requests are admitted."""

    model: LoadableModel
    slot: EngineSlot
    make_engine: Callable[[], StartableEngine]
    prepare: Callable[[], Awaitable[object]]
    engine: StartableEngine | None = None
    task: asyncio.Task[None] | None = None  # loads the model, and then waits for the end of its engine


class ModelLoader:
    """Loads and unloads models on demand. All methods run on one event loop."""

    def __init__(
        self, engines: dict[str, ManagedEngine], limits: Mapping[str, float], *, load_timeout_s: float
    ) -> None:
        self._engines = engines
        for managed in engines.values():
            managed.slot.empty()
        self._load_timeout_s = load_timeout_s
        self._policy = LoadingPolicy([managed.model for managed in engines.values()], limits, self)
        self._timer: asyncio.TimerHandle | None = None
        self._unloads: set[asyncio.Task[None]] = set()
        self._is_closed = False

    # --- requests -----------------------------------------------------------------------------------------------------

    def model(self, name: str) -> LoadableModel:
        return self._policy[name]

    @property
    def used_bytes(self) -> dict[str, int]:
        """Bytes that models take, by device."""
        budget = self._policy.budget
        return {device: budget.used_bytes(device) for device in budget.limits}

    async def acquire(self, name: str, *, is_batch: bool = False) -> None:
        """Wait until the model is loaded, and keep it loaded until `release`. is_batch: for a line of a batch.

        Raises QueueFull, ModelNotLoaded if loading takes longer than --load-timeout or the model does not fit,
        EngineUnavailable, and EngineStopped.
        """
        admitted, notify = _notice()
        waiter = self._policy.acquire(name, notify, is_batch=is_batch)
        self._set_timer()
        try:
            async with asyncio.timeout(None if admitted.done() else self._load_timeout_s):
                await admitted
        except BaseException as error:
            self._policy.withdraw(name, waiter)
            self._set_timer()
            if isinstance(error, TimeoutError):
                raise self._load_timeout(name) from None
            raise
        if waiter.error is not None:
            raise waiter.error

    def release(self, name: str, *, is_batch: bool = False) -> None:
        self._policy.release(name, is_batch=is_batch)
        self._set_timer()

    def set_keep_alive(self, name: str, seconds: float) -> None:
        """Unload the model once idle for `seconds`; infinity means never. This lasts until the model's next request."""
        self._policy.set_keep_alive(name, seconds)
        self._set_timer()

    def _load_timeout(self, name: str) -> ModelNotLoaded:
        return ModelNotLoaded(
            f"the model could not be loaded within {self._load_timeout_s:g} s (--load-timeout); try again later",
            retry_after_s=self._policy[name].load_s,
        )

    # --- operators ----------------------------------------------------------------------------------------------------

    async def ensure_loaded(self, name: str) -> None:
        """Load the model for an operator, and wait until it is loaded. Other models may displace it afterwards.

        Raises ModelNotLoaded if the model does not fit beside the pinned models, EngineUnavailable if it cannot be
        loaded or another operator unloads it, and EngineStopped.
        """
        await self._wait_for(partial(self._policy.request_load, name))

    async def ensure_unloaded(self, name: str) -> None:
        """Unload the model for an operator, and wait until it is unloaded. The next request loads it again.

        Raises EngineUnavailable if another operator keeps the model loaded, and EngineStopped.
        """
        await self._wait_for(partial(self._policy.request_unload, name))

    async def _wait_for(self, start: Callable[[Callable[[], None]], OperatorRequest]) -> None:
        done, notify = _notice()
        request = start(notify)
        self._set_timer()
        await done
        if request.error is not None:
            raise request.error

    # --- Loader, for the policy ---------------------------------------------------------------------------------------

    def start_load(self, name: str) -> None:
        managed = self._engines[name]
        managed.engine = engine = managed.make_engine()
        managed.slot.engine = engine
        logger.info("loading the model %s", name)
        managed.task = asyncio.create_task(self._run(name, managed, engine), name=f"model {name}")

    def start_unload(self, name: str) -> None:
        managed = self._engines[name]
        engine, task = managed.engine, managed.task
        assert engine is not None
        assert task is not None
        managed.engine = None
        managed.slot.empty()
        logger.info("unloading the model %s", name)
        unload = asyncio.create_task(self._unload(name, engine, task), name=f"unload {name}")
        self._unloads.add(unload)
        unload.add_done_callback(self._unloads.discard)

    async def _unload(self, name: str, engine: StartableEngine, task: "asyncio.Task[None]") -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await _stop(name, engine)
        if not self._is_closed:
            self._policy.on_unloaded(name)
            self._set_timer()

    async def _run(self, name: str, managed: ManagedEngine, engine: StartableEngine) -> None:
        """Load the model, then wait until its engine dies. A failure does not affect other models."""
        try:
            await engine.start()
            info = await engine.wait_ready()
            managed.slot.engine_is_ready()
            await managed.prepare()
        except Exception as error:  # noqa: BLE001 - of this model alone, and logged by _fail
            await self._fail(name, managed, engine, error)
            return
        need_bytes = info.weight_bytes + info.adapter_bytes + info.kv_bytes
        need_bytes += process_bytes(managed.model.device)
        need_bytes += (
            most_moving_bytes(info.kv_bytes) if info.kv_folder is not None and managed.model.device == HOST else 0
        )
        if 0 < managed.model.need_bytes < need_bytes:
            expected = managed.model.need_bytes
            logger.warning("the model %s takes %d MiB, where %d were expected", name, need_bytes >> 20, expected >> 20)
        self._policy.on_loaded(name, need_bytes)
        logger.info("the model %s is loaded, in %.1f s", name, managed.model.load_s)
        self._set_timer()
        await self._fail(name, managed, engine, await engine.wait_dead())

    async def _fail(self, name: str, managed: ManagedEngine, engine: StartableEngine, cause: Exception | str) -> None:
        """Mark the model as failed. cause: the error of its start, or the reason for the end of its engine."""
        await _stop(name, engine)
        if self._is_closed:
            return
        reason = str(cause)
        if isinstance(cause, Exception) and not isinstance(cause, HeadraceError):
            logger.error("loading the model %s failed with an internal error", name, exc_info=cause)
            reason = "an internal error; the log has the details"
        managed.engine = None
        managed.slot.empty(reason)
        what = "is no longer served" if isinstance(cause, str) else "could not be loaded"
        logger.error("the model %s %s: %s", name, what, reason)
        is_for_good = isinstance(cause, ModelUnusable | OptionError)
        self._policy.on_failed(name, reason, is_for_good=is_for_good, is_public=isinstance(cause, TextUnusable))
        self._set_timer()

    # --- time ---------------------------------------------------------------------------------------------------------

    def _set_timer(self) -> None:
        """Schedule `_on_timer` for the policy's next deadline."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at_s = self._policy.next_deadline_s()
        if at_s is not None and not self._is_closed:
            self._timer = asyncio.get_running_loop().call_at(at_s, self._on_timer)  # clock: time.monotonic()

    def _on_timer(self) -> None:
        self._policy.on_deadline()
        self._set_timer()

    async def close(self) -> None:
        """Stop all engines immediately. Open streams and requests that wait for a model raise EngineStopped."""
        self._is_closed = True
        self._policy.close()
        self._set_timer()
        engines = [managed.engine for managed in self._engines.values() if managed.engine is not None]
        await asyncio.gather(*(engine.stop() for engine in engines), *self._unloads)
        for managed in self._engines.values():
            if managed.task is not None:
                managed.task.cancel()
                await asyncio.gather(managed.task, return_exceptions=True)


def _notice() -> tuple[asyncio.Future[None], Callable[[], None]]:
    """Return a future, and a callback that completes it unless it is done."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def notify() -> None:
        if not future.done():  # it is if the request was canceled
            future.set_result(None)

    return future, notify


async def _stop(name: str, engine: StartableEngine) -> None:
    """Stop the engine. An error is only logged, since the model is no longer served in any case."""
    try:
        await engine.stop()
    except Exception:
        logger.exception("stopping the engine of the model %s", name)
