"""EngineLife: the engine's state across restarts of its process, and the reason while it is not ready."""

import asyncio
import time
from collections import deque

from engine.client.interface import EngineState
from engine.errors import EngineUnavailable, ModelUnusable, OptionError, StartupError
from engine.protocol import EngineInfo, Failed, Loading

MAX_RESTARTS = 3  # within the window; more means that it will not get better by itself
RESTART_WINDOW_S = 600.0


class EngineLife:
    """State machine of the engine: LOADING and READY for each process in turn, and finally DEAD.

    Invariants: `reason` is empty while READY; DEAD is final, and ends the waiting in `wait_ready` and `wait_dead`.
    """

    def __init__(self) -> None:
        self.state = EngineState.LOADING
        self.reason = "the engine has not been started"
        self.loading: Loading | None = None  # the latest, of the process that is loading
        self.num_restarts = 0
        self.has_hung = False  # the current process, or the last one
        self.is_stopping = False
        self._info: EngineInfo | None = None
        self._failure: str | None = None
        self._error: type[StartupError] = StartupError  # of `_failure`
        self._restart_times: deque[float] = deque()  # within the window
        self._decided = asyncio.Event()  # set with the first READY, or DEAD
        self._dead = asyncio.Event()

    @property
    def info(self) -> EngineInfo:
        """The description of the latest process that was ready. Raises EngineUnavailable until a process has been
        ready."""
        if self._info is None:
            raise EngineUnavailable(self.reason)
        return self._info

    @property
    def last_info(self) -> EngineInfo | None:
        """The description of the latest process that was ready; None until a process has been ready."""
        return self._info

    @property
    def is_restarting(self) -> bool:
        """Whether a process that was ready has ended, or hangs, and the next one is not ready yet."""
        return self.state is EngineState.LOADING and self._info is not None

    def check_ready(self) -> None:
        """Raise EngineUnavailable unless the engine is ready."""
        if self.state is not EngineState.READY:
            raise EngineUnavailable(self.reason)

    def check_accepting(self) -> None:
        """Raise EngineUnavailable unless the engine is ready or restarting, when requests wait for the next process."""
        if not self.is_restarting:
            self.check_ready()

    async def wait_ready(self) -> EngineInfo:
        """Wait until the engine is ready; return its description. Raises StartupError, ModelUnusable or OptionError on
        failure."""
        await self._decided.wait()
        if self._failure is not None:
            raise self._error(self._failure)
        return self.info

    async def wait_dead(self) -> str:
        """Wait until the engine has failed for good; return the reason."""
        await self._dead.wait()
        return self.reason

    def stage(self) -> tuple[str | None, float | None]:
        """Return the stage of loading, and its progress (0..1). Each is None if it is unknown, or if the engine is not
        LOADING."""
        loading = self.loading
        if self.state is not EngineState.LOADING or loading is None:
            return None, None
        return loading.stage, min(1.0, loading.done / loading.total) if loading.total > 0 else None

    # --- events -------------------------------------------------------------------------------------------------------

    def begin_process(self) -> None:
        self._enter_loading(self.reason if self.num_restarts else "the model is being loaded")
        self.has_hung = False

    def become_ready(self, info: EngineInfo) -> None:
        self._info = info
        self.state = EngineState.READY
        self.reason = ""

    def release_waiting(self) -> None:
        """Wake the callers of `wait_ready`."""
        self._decided.set()

    def hang(self, reason: str) -> None:
        """Record that the process hangs and is about to be killed."""
        self.has_hung = True
        self._enter_loading(reason)

    def fail(self, failed: Failed) -> None:
        """Record the error that the engine's process reports, before it ends, if it cannot start."""
        self._failure = failed.message
        self._error = OptionError if failed.is_option else ModelUnusable if failed.is_model else StartupError

    def end_process(self, reason: str) -> bool:
        """Record that the process has ended; return whether its end is unexpected."""
        is_unexpected = not self.is_stopping and self._failure is None and not self.has_hung
        if is_unexpected:
            self.reason = reason
        return is_unexpected

    def take_restart(self) -> bool:
        """Return whether one more process may be started; if so, count the restart. An engine that was never ready is
        not started again."""
        if self.is_stopping or self._failure is not None or self._info is None:
            return False
        now = time.monotonic()
        while self._restart_times and now - self._restart_times[0] > RESTART_WINDOW_S:
            self._restart_times.popleft()
        if len(self._restart_times) >= MAX_RESTARTS:
            return False
        self._restart_times.append(now)
        self.num_restarts += 1
        return True

    def restart(self) -> None:
        """Record that the next process is about to be started."""
        how = "hung" if self.has_hung else "ended unexpectedly"
        self._enter_loading(f"the engine {how} and is being started again")

    def die(self, failure: str | None = None) -> None:
        """Record that no process will follow. failure: the error, if the supervision itself failed."""
        self.state = EngineState.DEAD
        self._failure = failure or self._failure
        if self._failure is None:
            tries = f"; it was started {1 + self.num_restarts} times" if self.num_restarts else ""
            self._failure = self.reason + tries
        self.reason = self._failure
        self.release_waiting()
        self._dead.set()

    def _enter_loading(self, reason: str) -> None:
        self.state = EngineState.LOADING
        self.reason = reason
        self.loading = None
