"""EngineSupervisor: runs the engine's process, kills it if it hangs, and starts the next."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from engine.child_processes.lifetime import describe_exit
from engine.client.engine_life import MAX_RESTARTS, RESTART_WINDOW_S, EngineLife
from engine.client.engine_process import EXIT_TIMEOUT_S, EngineProcess, start_engine
from engine.client.fork_server import ForkServer
from engine.client.interface import EngineCallbacks, EngineEnd, EngineState, RestartReason
from engine.config import EngineConfig
from engine.protocol import IMPORT_STAGE, FromEngine, Loading, Shutdown, ToEngine

logger = logging.getLogger(__name__)

WATCH_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True)
class EngineUser:
    """Callbacks of the client that sends requests to the engine, called by the supervisor."""

    handle: Callable[[FromEngine], None]
    continue_requests: Callable[[], tuple[int, int]]
    """Called when a process has ended, and the next one is about to be started. Returns how many requests continue, and
    how many have failed."""
    give_up: Callable[[], None]  # no process will follow
    silent_s: Callable[[], float]  # seconds since the last sign of progress, if there is work; called every second


class EngineSupervisor:
    """Starts, watches and restarts the engine process. All methods run on the event loop that called `start`.

    Invariant: when a process ends, the EngineUser continues its requests or gives up before anything else happens.
    """

    def __init__(
        self,
        config: EngineConfig,
        command: tuple[str, ...],
        life: EngineLife,
        user: EngineUser,
        callbacks: EngineCallbacks,
        *,
        hang_timeout_s: float,
        fork_server: ForkServer | None,
    ) -> None:
        """hang_timeout_s: time without progress, while there is work, after which the process is killed; 0 is never.

        fork_server: forks the process; the command is run if it is None or cannot."""
        self._config = config
        self._command = command
        self._life = life
        self._user = user
        self._callbacks = callbacks
        self._hang_timeout_s = hang_timeout_s
        self._fork_server = fork_server
        self._engine: EngineProcess | None = None  # None while it is being started
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._supervise(), name="engine-supervisor")
        self._task.add_done_callback(self._supervision_ended)

    def send(self, message: ToEngine) -> None:
        """Send a message to the process, or drop it if there is none."""
        if self._engine is not None:
            self._engine.send(message)

    async def stop(self) -> None:
        """Stop the process now; no other is started."""
        self._life.is_stopping = True
        self._life.reason = "the server is stopping"
        if self._engine is None and self._task is not None:
            self._task.cancel()
        elif self._life.state is EngineState.LOADING and self._engine is not None:
            self._engine.kill()  # it listens only once it is ready
        self.send(Shutdown())
        if self._task is not None:
            _, late = await asyncio.wait([self._task], timeout=EXIT_TIMEOUT_S)  # _supervision_ended logs its faults
            if late:
                self._task.cancel()
                await asyncio.wait([self._task])
            if self._task.cancelled():
                self._user.give_up()
        if self._engine is not None:
            await self._engine.kill_and_wait()

    async def _supervise(self) -> None:
        """Run engine processes, one after the other, until no restart is allowed."""
        life = self._life
        while True:
            await self._run_once()
            if not life.take_restart():
                self._user.give_up()
                if not life.is_stopping:
                    life.die()
                return
            reason = RestartReason.HANG if life.has_hung else RestartReason.CRASH
            num_continued, num_failed = self._user.continue_requests()
            self._callbacks.on_restart(EngineEnd(reason, life.reason, num_continued, num_failed))
            logger.warning(
                "starting the engine again: restart %d; after %d within %d minutes the server gives up",
                life.num_restarts,
                MAX_RESTARTS,
                RESTART_WINDOW_S // 60,
            )
            life.restart()

    def _supervision_ended(self, task: "asyncio.Task[None]") -> None:
        """Done callback: make the engine DEAD if the supervision itself failed, lest clients wait forever."""
        if task.cancelled() or (error := task.exception()) is None:
            return
        logger.error("the engine's supervision failed", exc_info=error)
        try:
            self._user.give_up()
        finally:  # giving up may need the part that has failed
            self._life.die(f"the engine's supervision failed: {error}")

    async def _run_once(self) -> None:
        self._life.begin_process()
        self._engine = None
        if self._fork_server is not None:  # which may import libraries still, and the engine reports nothing until then
            self._user.handle(Loading(IMPORT_STAGE, 0, 0, "", time.monotonic()))
        self._engine = await start_engine(self._command, self._config, self._fork_server, self._life.last_info)
        self._callbacks.on_process(self._engine.pid)
        watchdog = asyncio.create_task(self._watch(self._engine), name="engine-watchdog")
        try:
            returncode = await self._engine.run(self._user.handle)
        finally:
            watchdog.cancel()
        self._callbacks.on_process(None)
        if self._life.end_process(f"the engine process ended with {describe_exit(returncode)}"):
            logger.error("%s", self._life.reason)

    async def _watch(self, engine: EngineProcess) -> None:
        """Kill the process if it hangs; its end is handled like any other end of a process."""
        life = self._life
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            silent_s = self._user.silent_s()  # without a limit, too: the clock must be read often
            has_hung = 0 < self._hang_timeout_s < silent_s
            if has_hung and life.state is EngineState.READY and not life.is_stopping:
                life.hang(f"the engine made no progress for {silent_s:.0f} s, with work to do, and was killed")
                logger.error("%s (--engine-hang-timeout)", life.reason)
                engine.kill()
                return


class ProgressClock:
    """Seconds without a sign of progress by the engine.

    Only time in which this process ran counts: while it is stopped or starved, the engine's messages stay unread in the
    socket. So the time between two reads of the clock counts for at most `max_gap_s`, and the clock must be read more
    often than that.
    """

    def __init__(self, now: float, *, max_gap_s: float) -> None:
        """now: time.monotonic(), as in all methods. max_gap_s: longest time between two reads that counts in full."""
        self._max_gap_s = max_gap_s
        self._read_s = now
        self._silent_s = 0.0

    def restart(self, now: float) -> None:
        """Start again from 0: there was a sign of progress, or an idle engine got work."""
        self._read_s, self._silent_s = now, 0.0

    def silent_s(self, now: float) -> float:
        """Read the clock: return the seconds without a sign of progress."""
        self._silent_s += min(now - self._read_s, self._max_gap_s)
        self._read_s = now
        return self._silent_s
