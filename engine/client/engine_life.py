"""EngineLife: whether the engine is ready, over all processes that it has had, and why not."""

import asyncio
import time
from collections import deque

from engine.client.interface import EngineState
from engine.errors import EngineUnavailable, OptionError, StartupError
from engine.protocol import EngineInfo, Failed, Loading

MAX_RESTARTS = 3  # within the window; more means that it will not get better by itself
RESTART_WINDOW_S = 600.0


class EngineLife:
    """Begins LOADING and alternates with READY, once for each process, until it ends DEAD.

    Invariants: `reason` is empty while READY; DEAD is final, and `wait_ready` and `wait_dead` return by then.
    """

    def __init__(self) -> None:
        self.state = EngineState.LOADING
        self.reason = "the engine has not been started"
        self.loading: Loading | None = None  # the latest, of the process that is loading
        self.num_restarts = 0
        self.has_hung = False  # the process that runs, or the last one
        self.is_stopping = False
        self._info: EngineInfo | None = None
        self._failure: str | None = None
        self._is_option_wrong = False
        self._restarts = RestartLimit()
        self._settled = asyncio.Event()  # first READY, or DEAD
        self._dead = asyncio.Event()

    @property
    def info(self) -> EngineInfo:
        """Of the latest process that was ready; raises EngineUnavailable before there is one."""
        if self._info is None:
            raise EngineUnavailable(self.reason)
        return self._info

    def check_ready(self) -> None:
        """Raise EngineUnavailable unless it is."""
        if self.state is not EngineState.READY:
            raise EngineUnavailable(self.reason)

    async def wait_ready(self) -> EngineInfo:
        """The engine's description once it is ready; raises StartupError, or OptionError, if it cannot start."""
        await self._settled.wait()
        if self._failure is not None:
            raise OptionError(self._failure) if self._is_option_wrong else StartupError(self._failure)
        return self.info

    async def wait_dead(self) -> str:
        """The reason, once the engine has failed for good."""
        await self._dead.wait()
        return self.reason

    def stage(self) -> tuple[str | None, float | None]:
        """What is being loaded, and how much of it is done (0..1); None is unknown."""
        loading = self.loading
        if self.state is not EngineState.LOADING or loading is None:
            return None, None
        return loading.stage, min(1.0, loading.done / loading.total) if loading.total > 0 else None

    # --- what happens to it -------------------------------------------------------------------------------------------

    def begin_process(self) -> None:
        self._enter_loading(self.reason if self.num_restarts else "the model is being loaded")
        self.has_hung = False

    def become_ready(self, info: EngineInfo) -> None:
        self._info = info
        self.state = EngineState.READY
        self.reason = ""

    def settle(self) -> None:
        """Let `wait_ready` return."""
        self._settled.set()

    def hang(self, reason: str) -> None:
        """The process hangs and is about to be killed."""
        self.has_hung = True
        self._enter_loading(reason)

    def fail(self, failed: Failed) -> None:
        """The engine says why it cannot start, and ends."""
        self._failure, self._is_option_wrong = failed.message, failed.is_option

    def end_process(self, reason: str) -> bool:
        """The process has ended; returns whether nothing that is known already explains it."""
        is_unexpected = not self.is_stopping and self._failure is None and not self.has_hung
        if is_unexpected:
            self.reason = reason
        return is_unexpected

    def take_restart(self) -> bool:
        """Whether one more process may be started, which counts then; an engine that was never ready has nothing to
        come back to."""
        if self.is_stopping or self._failure is not None or self._info is None:
            return False
        if not self._restarts.take(time.monotonic()):
            return False
        self.num_restarts += 1
        return True

    def restart(self) -> None:
        """The next process is about to be started."""
        what = "hung" if self.has_hung else "ended unexpectedly"
        self._enter_loading(f"the engine {what} and is being started again")

    def die(self, failure: str | None = None) -> None:
        """It will not come back. failure: of our own."""
        self.state = EngineState.DEAD
        self._failure = failure or self._failure
        if self._failure is None:
            tries = f"; it was started {1 + self.num_restarts} times" if self.num_restarts else ""
            self._failure = self.reason + tries
        self.reason = self._failure
        self.settle()
        self._dead.set()

    def _enter_loading(self, reason: str) -> None:
        self.state = EngineState.LOADING
        self.reason = reason
        self.loading = None


class RestartLimit:
    """The restarts within a sliding window, which may be MAX_RESTARTS."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()

    def take(self, now: float) -> bool:
        """Return whether a restart at `now` (time.monotonic()) is within the limit, and count it if so."""
        while self._times and now - self._times[0] > RESTART_WINDOW_S:
            self._times.popleft()
        if len(self._times) >= MAX_RESTARTS:
            return False
        self._times.append(now)
        return True
