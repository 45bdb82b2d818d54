"""ProcessClient: an EngineClient whose engine is a child process, watched and started again if it dies."""

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Callable, Sequence

from engine.client.adapter_loads import AdapterLoads
from engine.client.batch_lane import BatchLane
from engine.client.callbacks import EngineCallbacks
from engine.client.engine_process import EXIT_TIMEOUT_S, EngineProcess, describe_exit
from engine.client.first_token import FirstToken
from engine.client.intake import Intake
from engine.client.interface import EngineState, EngineStatus, RestartReason
from engine.client.open_streams import OpenStreams
from engine.client.output_stream import OutputStream
from engine.client.pooling_calls import PoolingCalls
from engine.client.progress_clock import ProgressClock
from engine.client.queue_limit import QueueLimit
from engine.client.restart_limit import MAX_RESTARTS, RESTART_WINDOW_S, RestartLimit
from engine.config import EngineConfig
from engine.errors import EngineDied, EngineStopped, EngineUnavailable, OptionError, StartupError
from engine.protocol import (
    AbortPooling,
    AbortReason,
    AbortRequest,
    AdapterInfo,
    AdapterLoaded,
    AdapterRefused,
    AddPooling,
    AddRequest,
    EngineInfo,
    EngineRequest,
    Failed,
    ForgetAdapter,
    FromEngine,
    Loading,
    PoolingOutput,
    PoolingOutputs,
    PoolingRequest,
    Ready,
    ServiceClass,
    SetLogLevel,
    Shutdown,
    Started,
    StepOutputs,
    StepStats,
    ToEngine,
    TokenizerReady,
    Working,
)

logger = logging.getLogger(__name__)

_WATCH_INTERVAL_S = 1.0
_TIMER_SLACK_S = 0.01  # event loops count in milliseconds
_ENDED = "the engine ended while it worked on this request; send it again"
_COMMAND = (sys.executable, "-P", "-m", "engine.process")  # -P: not from the current folder


class ProcessClient:
    """Owns the engine process. All methods run on the event loop that called `start`.

    Invariant: when the process ends, every open stream or call raises EngineDied or is sent to the next process, so
    that no caller waits for an engine that is gone.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        max_num_waiting: int,
        max_num_waiting_tokens: int | None = None,
        max_num_batch_requests: int | None = None,
        hang_timeout_s: float = 0.0,
        callbacks: EngineCallbacks | None = None,
        command: tuple[str, ...] = _COMMAND,
    ) -> None:
        """max_num_batch_requests: see BatchLane. hang_timeout_s: without a sign of progress, while there is work, until
        the process is killed; 0 is never. command: see EngineProcess."""
        self._config = config
        self._hang_timeout_s = hang_timeout_s
        self._callbacks = callbacks or EngineCallbacks()
        self._command = command
        self._engine: EngineProcess | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._streams = OpenStreams(on_discarded=self._callbacks.on_discarded)
        self._intake = Intake(
            self._streams,
            QueueLimit(max_num_waiting, max_num_waiting_tokens),
            shares_prefixes=config.enable_prefix_caching,
            on_first_token=self._callbacks.on_first_token,
        )
        self._pooling = PoolingCalls(QueueLimit(max_num_waiting, max_num_waiting_tokens))
        self._adapter_loads = AdapterLoads()
        self._batch_lane = BatchLane(max_num_batch_requests)
        self._state = EngineState.LOADING
        self._reason = "the engine has not been started"
        self._loading: Loading | None = None
        self._info: EngineInfo | None = None
        self._failure: str | None = None
        self._is_option_wrong = False
        self._clock = ProgressClock(time.monotonic(), max_gap_s=2 * _WATCH_INTERVAL_S)
        self._has_hung = False
        self._restarts = RestartLimit()
        self._num_restarts = 0
        self._is_stopping = False
        self._settled = asyncio.Event()  # first READY, or DEAD
        self._dead = asyncio.Event()

    # --- life cycle ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the engine process and its supervision; returns before the model is loaded."""
        self._supervisor = asyncio.create_task(self._supervise(), name="engine-supervisor")
        self._supervisor.add_done_callback(self._supervision_ended)

    async def wait_ready(self) -> EngineInfo:
        """The engine's description once it is ready; raises StartupError, or OptionError, if it cannot start."""
        await self._settled.wait()
        if self._failure is not None:
            raise OptionError(self._failure) if self._is_option_wrong else StartupError(self._failure)
        return self.info

    async def wait_dead(self) -> str:
        """Return the reason once the engine has failed for good."""
        await self._dead.wait()
        return self._reason

    async def stop(self) -> None:
        """Stop the engine at once; streams still open raise EngineStopped."""
        self._is_stopping = True
        self._reason = "the server is stopping"
        if self._state is EngineState.LOADING and self._engine is not None:
            self._engine.kill()  # it listens only once it is ready
        self._send(Shutdown())
        if self._supervisor is not None:
            try:
                await asyncio.wait_for(asyncio.shield(self._supervisor), EXIT_TIMEOUT_S)
            except TimeoutError:
                self._supervisor.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await self._supervisor
        if self._engine is not None:
            await self._engine.kill_and_wait()

    # --- EngineClient -------------------------------------------------------------------------------------------------

    @property
    def info(self) -> EngineInfo:
        if self._info is None:
            raise EngineUnavailable(self._reason)
        return self._info

    def status(self) -> EngineStatus:
        stage, progress = self._stage()
        num_open = self._num_open
        return EngineStatus(
            state=self._state,
            reason=self._reason if stage is None else f"{self._reason}: {stage}{_percent(progress)}",
            stage=stage,
            progress=progress,
            num_open=num_open,
            num_batch=self._num_batch,
            num_running=self._intake.stats.running + self._pooling.num_running,
            num_waiting=self._intake.num_waiting + self._pooling.num_waiting,
            num_waiting_tokens=self._streams.backlog.num_tokens + self._pooling.num_waiting_tokens,
            seconds_since_progress=self._clock.silent_s(time.monotonic()) if num_open else 0.0,
            num_restarts=self._num_restarts,
        )

    @property
    def _num_open(self) -> int:
        return len(self._streams) + len(self._pooling)

    @property
    def _num_batch(self) -> int:
        return self._streams.num_batch + self._pooling.num_batch

    def _stage(self) -> tuple[str | None, float | None]:
        """What is being loaded, and how much of it is done (0..1); None is unknown."""
        loading = self._loading
        if self._state is not EngineState.LOADING or loading is None:
            return None, None
        return loading.stage, min(1.0, loading.done / loading.total) if loading.total > 0 else None

    def check_capacity(
        self, num_requests: int, num_new_tokens: int = 1, service_class: ServiceClass = ServiceClass.INTERACTIVE
    ) -> None:
        self._check_ready()
        if service_class is ServiceClass.BATCH:
            return
        if self.info.pooling is not None:
            self._pooling.check(num_requests, num_new_tokens)
        else:
            self._intake.check(num_requests, num_new_tokens)

    @property
    def batch_lane(self) -> BatchLane:
        return self._batch_lane

    def _check_ready(self) -> None:
        if self._state is not EngineState.READY:
            raise EngineUnavailable(self._reason)

    def predict_first_token(self, num_new_tokens: int, service_class: ServiceClass) -> FirstToken:
        return self._intake.predict(num_new_tokens, service_class)

    def drain_s(self) -> float:
        return self._intake.drain_s() if self.info.pooling is None else self._pooling.drain_s()

    def submit(self, request: EngineRequest, *, num_new_tokens: int | None = None) -> OutputStream:
        self._check_ready()
        if request.service_class is not ServiceClass.BATCH:
            self._intake.check_requests(1)
        self._leave_idleness()
        stream = self._intake.open(request, num_new_tokens, lambda reason: self._abort(request.id, reason))
        self._send_requests()
        return stream

    async def pool(self, requests: Sequence[PoolingRequest]) -> list[PoolingOutput]:
        self._check_ready()
        assert self.info.pooling is not None
        self._leave_idleness()
        return await self._pooling.run(
            requests, send=self._send_requests, on_abort=lambda ids: self._send(AbortPooling(ids))
        )

    def _leave_idleness(self) -> None:
        if self._num_open == 0:
            self._clock.restart(time.monotonic())

    async def load_adapter(self, path: str) -> AdapterInfo:
        self._check_ready()
        return await self._adapter_loads.run(path, self._send)

    def forget_adapter(self, digest: bytes) -> None:
        self._send(ForgetAdapter(digest))

    def set_log_level(self, level: str) -> None:
        self._send(SetLogLevel(level))

    def _send_requests(self) -> None:
        for request in self._streams.take_unsent():
            self._send(AddRequest(request))
        if texts := self._pooling.take_unsent():
            self._send(AddPooling(texts))

    def _abort(self, request_id: str, reason: AbortReason) -> None:
        if not self._streams.drop_unsent(request_id) and request_id in self._streams:
            self._send(AbortRequest(request_id, reason))

    def _send(self, message: ToEngine) -> None:
        if self._engine is not None:
            self._engine.send(message)

    # --- supervision --------------------------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        """Run the engine process again and again until it may not be restarted any more."""
        while True:
            await self._run_once()
            self._intake.stats = StepStats()
            if self._is_stopping or self._failure is not None or not self._may_restart():
                self._fail_streams()
                self._callbacks.on_step(self._intake.stats)  # gauges of a dead engine are 0
                if not self._is_stopping:
                    self._die()
                return
            self._num_restarts += 1
            self._keep_requests()
            num_batch = self._num_batch
            self._callbacks.on_step(StepStats(waiting=self._num_open - num_batch, waiting_batch=num_batch))
            self._callbacks.on_restart(RestartReason.HANG if self._has_hung else RestartReason.CRASH)
            logger.warning(
                "starting the engine again: restart %d; after %d within %d minutes the server gives up",
                self._num_restarts,
                MAX_RESTARTS,
                RESTART_WINDOW_S // 60,
            )
            what = "hung" if self._has_hung else "ended unexpectedly"
            self._enter_loading(f"the engine {what} and is being started again")

    def _keep_requests(self) -> None:
        """The next engine gets the requests that can be run again or go on; the other streams end."""
        requests: list[EngineRequest | PoolingRequest] = []
        requests += self._streams.engine_ended(_ENDED)
        requests += self._pooling.engine_ended()
        self._adapter_loads.fail_all(lambda: EngineDied(_ENDED))
        if requests:
            logger.info("%d requests go on in the next engine", len(requests))
        loop = asyncio.get_running_loop()
        for request in requests:
            for limit_s in (request.deadline_s, request.start_by_s):
                if limit_s is not None:
                    loop.call_later(limit_s - time.monotonic() + _TIMER_SLACK_S, self._expire)

    def _expire(self) -> None:
        self._streams.expire_unsent(time.monotonic())
        self._pooling.expire_unsent(time.monotonic())

    def _supervision_ended(self, supervisor: "asyncio.Task[None]") -> None:
        """A fault of our own must end in DEAD, too: nobody would notice that the supervisor is gone."""
        if supervisor.cancelled() or (error := supervisor.exception()) is None:
            return
        logger.error("the engine's supervision failed", exc_info=error)
        self._failure = f"the engine's supervision failed: {error}"
        self._fail_streams()
        self._die()

    async def _run_once(self) -> None:
        """Start one engine process and handle its messages until it is gone."""
        self._enter_loading(self._reason if self._num_restarts else "the model is being loaded")
        self._has_hung = False
        self._engine = EngineProcess(self._command, self._config)
        self._callbacks.on_process(self._engine.pid)
        watchdog = asyncio.create_task(self._watch(self._engine), name="engine-watchdog")
        try:
            returncode = await self._engine.run(self._handle)
        finally:
            watchdog.cancel()
        self._callbacks.on_process(None)
        if not self._is_stopping and self._failure is None and not self._has_hung:  # else its end was expected
            self._reason = f"the engine process ended with {describe_exit(returncode)}"
            logger.error("%s", self._reason)

    async def _watch(self, engine: EngineProcess) -> None:
        """Kill the process if it hangs: then its end is handled as any other."""
        while True:
            await asyncio.sleep(_WATCH_INTERVAL_S)
            silent_s = self.status().seconds_since_progress  # without a limit, too: the clock counts what is looked at
            has_hung = 0 < self._hang_timeout_s < silent_s
            if has_hung and self._state is EngineState.READY and not self._is_stopping:
                self._has_hung = True
                self._enter_loading(
                    f"the engine made no progress for {silent_s:.0f} s, with work to do, and was killed"
                )
                logger.error("%s (--engine-hang-timeout)", self._reason)
                engine.kill()
                return

    def _handle(self, message: FromEngine) -> None:
        match message:
            case StepOutputs(outputs=outputs, stats=stats):
                if outputs or stats.num_computed:  # not if it spins and computes nothing
                    self._clock.restart(time.monotonic())
                self._callbacks.on_step(stats)
                self._intake.take_step(outputs, stats)
            case PoolingOutputs(outputs=texts, stats=stats):
                self._clock.restart(time.monotonic())
                self._callbacks.on_step(stats)
                for text in texts:
                    self._pooling.deliver(text)
            case AdapterLoaded() | AdapterRefused():
                self._adapter_loads.deliver(message)
            case Loading():
                self._loading = message
                self._callbacks.on_loading(message)
            case TokenizerReady(tokenizer=tokenizer):
                self._callbacks.on_tokenizer(tokenizer)
            case Ready(info=info):
                self._info = info
                self._state = EngineState.READY
                self._reason = ""
                self._clock.restart(time.monotonic())
                self._intake.begin(info)
                self._batch_lane.open(info.max_num_seqs)
                self._callbacks.on_ready(info)
                if self._num_restarts:
                    logger.info("the engine is ready again")
                self._send_requests()
                self._settled.set()
            case Started(ids=ids):
                self._intake.start(ids)
                self._pooling.start(ids)
            case Working():
                self._clock.restart(time.monotonic())
            case Failed(message=reason, is_option=is_option):
                self._failure, self._is_option_wrong = reason, is_option

    def _enter_loading(self, reason: str) -> None:
        self._state = EngineState.LOADING
        self._reason = reason
        self._loading = None

    def _may_restart(self) -> bool:
        """Whether one more start is within bounds; a process that was never ready has nothing to come back to."""
        return self._info is not None and self._restarts.take(time.monotonic())

    def _die(self) -> None:
        self._state = EngineState.DEAD
        if self._failure is None:
            tries = f"; it was started {1 + self._num_restarts} times" if self._num_restarts else ""
            self._failure = self._reason + tries
        self._reason = self._failure
        self._settled.set()
        self._dead.set()

    def _fail_streams(self) -> None:
        if self._is_stopping:
            stopped = "the server stopped while it worked on this request; send it again"
            self._fail_all(lambda: EngineStopped(stopped))
        else:
            self._fail_all(lambda: EngineDied(_ENDED))

    def _fail_all(self, make_error: Callable[[], EngineDied]) -> None:
        self._streams.fail_all(make_error)
        self._pooling.fail_all(make_error)
        self._adapter_loads.fail_all(make_error)


def _percent(progress: float | None) -> str:
    return "" if progress is None else f", {progress:.0%}".replace("%", " %")
