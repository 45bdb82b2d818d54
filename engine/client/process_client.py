"""ProcessClient: an EngineClient whose engine is a child process, which is watched and started again if it dies."""

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Iterable, Sequence

from engine.child_processes.frames import FrameTooLong
from engine.client.engine_calls import EngineCalls
from engine.client.engine_life import EngineLife
from engine.client.fork_server import ForkServer
from engine.client.interface import EngineCallbacks, EngineState, EngineStatus
from engine.client.open_streams import OpenStreams
from engine.client.output_stream import OutputStream
from engine.client.pooling_calls import PoolingCalls, message_slices
from engine.client.queue.batch_lane import BatchLane
from engine.client.queue.first_token import FirstToken
from engine.client.queue.intake import Intake
from engine.client.queue.queue_limit import QueueLimit
from engine.client.supervisor import WATCH_INTERVAL_S, EngineSupervisor, EngineUser, ProgressClock
from engine.config import EngineConfig
from engine.errors import AdapterUnusable, EngineDied, EngineStopped
from engine.protocol import (
    AbortPooling,
    AbortReason,
    AbortRequest,
    AdapterInfo,
    AdapterLoaded,
    AdapterRefused,
    AddPooling,
    AddRequest,
    AddScoring,
    EngineInfo,
    Failed,
    FinishReason,
    ForgetAdapter,
    FromEngine,
    HandlePrefix,
    LoadAdapter,
    Loading,
    NamedPrefix,
    PoolingOutput,
    PoolingOutputs,
    PoolingRequest,
    PrefixAction,
    PrefixHandled,
    PrefixReport,
    Ready,
    RequestOutput,
    ScoringRequest,
    ServiceClass,
    SetLogLevel,
    Started,
    StepOutputs,
    StepStats,
    SubmittedRequest,
    TokenizerReady,
    Working,
)
from engine.wording import counted

logger = logging.getLogger(__name__)

_TIMER_SLACK_S = 0.01  # event loops count in milliseconds
_ENDED = "the engine ended while it worked on this request; send it again"
_COMMAND = (sys.executable, "-P", "-m", "engine.process")  # -P: not from the current folder


class ProcessClient:
    """EngineClient that owns the engine process. All methods run on the event loop that called `start`.

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
        fork_server: ForkServer | None = None,
    ) -> None:
        """max_num_batch_requests: limit on requests of batches in the engine; None is twice its max_num_seqs.

        hang_timeout_s: time without progress, while there is work, after which the process is killed; 0 is never.
        command: starts the engine process; the socket's file descriptor is appended as its last argument.
        fork_server: forks the engine process instead, if it can.
        """
        self._callbacks = callbacks or EngineCallbacks()
        self._life = EngineLife()
        user = EngineUser(
            self._handle, self._continue_requests, self._give_up, lambda: self.status().seconds_since_progress
        )
        self._supervisor = EngineSupervisor(
            config,
            command,
            self._life,
            user,
            self._callbacks,
            hang_timeout_s=hang_timeout_s,
            fork_server=fork_server,
        )
        self._streams = OpenStreams(on_discarded=self._callbacks.on_discarded)
        self._intake = Intake(
            self._streams,
            QueueLimit(max_num_waiting, max_num_waiting_tokens),
            shares_prefixes=config.enable_prefix_caching,
            on_first_token=self._callbacks.on_first_token,
        )
        self._pooling = PoolingCalls(QueueLimit(max_num_waiting, max_num_waiting_tokens))
        self._adapter_loads: EngineCalls[AdapterInfo] = EngineCalls(self._supervisor.send)
        self._prefix_calls: EngineCalls[PrefixReport] = EngineCalls(self._supervisor.send)
        self._batch_lane = BatchLane(max_num_batch_requests, has_clients=lambda: self._num_open > self._num_batch)
        self._clock = ProgressClock(time.monotonic(), max_gap_s=2 * WATCH_INTERVAL_S)

    # --- life cycle ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the engine process and its supervision; returns before the model is loaded."""
        self._supervisor.start()

    async def wait_ready(self) -> EngineInfo:
        return await self._life.wait_ready()

    async def wait_dead(self) -> str:
        return await self._life.wait_dead()

    async def stop(self) -> None:
        """Stop the engine now; streams still open raise EngineStopped."""
        await self._supervisor.stop()

    # --- EngineClient -------------------------------------------------------------------------------------------------

    @property
    def info(self) -> EngineInfo:
        return self._life.info

    def status(self) -> EngineStatus:
        life = self._life
        stage, progress = life.stage()
        num_open, stats = self._num_open, self._intake.stats
        num_waiting_tokens = self._streams.backlog.num_tokens + self._pooling.num_waiting_tokens
        return EngineStatus(
            state=life.state,
            reason=life.reason if stage is None else f"{life.reason}: {stage}{_percent(progress)}",
            stage=stage,
            progress=progress,
            num_open=num_open,
            num_batch=self._num_batch,
            num_running=stats.running + self._pooling.num_running,
            num_waiting=self._intake.num_waiting + self._pooling.num_waiting,
            num_waiting_tokens=num_waiting_tokens,
            num_cached_tokens=min(stats.waiting_cached_tokens, num_waiting_tokens),
            num_pending_tokens=stats.pending_prompt_tokens + self._pooling.num_running_tokens,
            kv_usage=stats.kv_usage,
            seconds_since_progress=self._clock.silent_s(time.monotonic()) if num_open else 0.0,
            num_restarts=life.num_restarts,
            is_restarting=life.is_restarting,
        )

    @property
    def _num_open(self) -> int:
        return len(self._streams) + len(self._pooling)

    @property
    def _num_failed(self) -> int:
        return self._streams.num_failed + self._pooling.num_failed

    @property
    def _num_batch(self) -> int:
        return self._streams.num_batch + self._pooling.num_batch

    def check_capacity(
        self, num_requests: int, num_new_tokens: int = 1, service_class: ServiceClass = ServiceClass.INTERACTIVE
    ) -> None:
        self._life.check_accepting()
        if service_class is ServiceClass.BATCH:
            return
        self._queue.check(num_requests, num_new_tokens)

    @property
    def _queue(self) -> Intake | PoolingCalls:
        """The queue in use: the Intake of a model that generates, or the PoolingCalls of one that pools."""
        return self._intake if self.info.generates else self._pooling

    @property
    def batch_lane(self) -> BatchLane:
        return self._batch_lane

    def predict_first_token(self, num_new_tokens: int, service_class: ServiceClass) -> FirstToken:
        return self._intake.predict(num_new_tokens, service_class)

    def drain_s(self) -> float:
        return self._queue.drain_s()

    def submit(self, request: SubmittedRequest, *, num_new_tokens: int | None = None) -> OutputStream:
        self._life.check_accepting()
        if request.service_class is not ServiceClass.BATCH:
            self._intake.check_requests(1)
        self._leave_idleness()
        stream = self._intake.open(request, num_new_tokens, lambda reason: self._abort(request.id, reason))
        if self._life.is_restarting:
            self._expire_in_time([request])
        self._send_requests()
        return stream

    async def pool(self, requests: Sequence[PoolingRequest]) -> list[PoolingOutput]:
        self._life.check_accepting()
        assert not self.info.generates
        self._leave_idleness()
        if self._life.is_restarting:
            self._expire_in_time(requests)
        return await self._pooling.run(
            requests, send=self._send_requests, on_abort=lambda ids: self._supervisor.send(AbortPooling(ids))
        )

    def _leave_idleness(self) -> None:
        if self._num_open == 0:
            self._clock.restart(time.monotonic())

    async def load_adapter(self, path: str) -> AdapterInfo:
        self._life.check_ready()
        return await self._adapter_loads.run(lambda number: LoadAdapter(number, path))

    def forget_adapter(self, digest: bytes) -> None:
        self._supervisor.send(ForgetAdapter(digest))

    async def handle_prefix(self, action: PrefixAction, prefix: NamedPrefix) -> PrefixReport:
        self._life.check_ready()
        assert self.info.generates
        return await self._prefix_calls.run(lambda number: HandlePrefix(number, action, prefix))

    def set_log_level(self, level: str) -> None:
        self._supervisor.send(SetLogLevel(level))

    def _send_requests(self) -> None:
        """Send what is not sent yet, unless no process is ready; the next one gets it when it is."""
        if self._life.state is not EngineState.READY:
            return
        for request in self._streams.take_unsent():
            try:
                match request:
                    case ScoringRequest():
                        self._supervisor.send(AddScoring(request))
                    case _:
                        self._supervisor.send(AddRequest(request))
            except FrameTooLong as error:
                self._streams.deliver(_refused(request, f"it is too long for the engine ({error}); send less at once"))
        for texts in message_slices(self._pooling.take_unsent()):
            self._supervisor.send(AddPooling(texts))

    def _abort(self, request_id: str, reason: AbortReason) -> None:
        if not self._streams.drop_unsent(request_id) and request_id in self._streams:
            self._supervisor.send(AbortRequest(request_id, reason))

    # --- events of the process ----------------------------------------------------------------------------------------

    def _continue_requests(self) -> tuple[int, int]:
        """Keep the requests that the next engine can run again or continue; end the other streams. Return the numbers
        of both."""
        num_failed_before = self._num_failed
        requests: list[SubmittedRequest | PoolingRequest] = []
        requests += self._intake.engine_ended(_ENDED)
        requests += self._pooling.engine_ended()
        self._adapter_loads.fail_all(lambda: EngineDied(_ENDED))
        self._prefix_calls.fail_all(lambda: EngineDied(_ENDED))
        if requests:
            logger.info("%s in the next engine", counted(len(requests), "request continues", "requests continue"))
        self._expire_in_time(requests)
        num_batch = self._num_batch
        self._callbacks.on_step(StepStats(waiting=self._num_open - num_batch, waiting_batch=num_batch))
        return len(requests), self._num_failed - num_failed_before

    def _expire_in_time(self, requests: Iterable[SubmittedRequest | PoolingRequest]) -> None:
        """End the requests at their time limits if they are not sent by then: no engine does it."""
        loop = asyncio.get_running_loop()
        for request in requests:
            for limit_s in (request.deadline_s, request.start_by_s):
                if limit_s is not None:
                    loop.call_later(limit_s - time.monotonic() + _TIMER_SLACK_S, self._expire)

    def _expire(self) -> None:
        self._streams.expire_unsent(time.monotonic())
        self._pooling.expire_unsent(time.monotonic())

    def _give_up(self) -> None:
        """End all streams: no engine will follow."""
        self._intake.stats = StepStats()
        if self._life.is_stopping:
            stopped = "the server stopped while it worked on this request; send it again"
            self._fail_all(lambda: EngineStopped(stopped))
        else:
            self._fail_all(lambda: EngineDied(_ENDED))
        self._callbacks.on_step(self._intake.stats)  # gauges of a dead engine are 0

    def _fail_all(self, make_error: Callable[[], EngineDied]) -> None:
        self._streams.fail_all(make_error)
        self._pooling.fail_all(make_error)
        self._adapter_loads.fail_all(make_error)
        self._prefix_calls.fail_all(make_error)

    def _handle(self, message: FromEngine) -> None:
        match message:
            case StepOutputs(outputs=outputs, stats=stats):
                if outputs or stats.num_computed:  # an engine that spins and computes nothing makes no progress
                    self._clock.restart(time.monotonic())
                self._callbacks.on_step(stats)
                self._intake.take_step(outputs, stats)
            case PoolingOutputs(outputs=texts, stats=stats):
                self._clock.restart(time.monotonic())
                self._callbacks.on_step(stats)
                for text in texts:
                    self._pooling.deliver(text)
            case AdapterLoaded(number=number, info=adapter):
                self._adapter_loads.deliver(number, adapter)
            case AdapterRefused(number=number, message=reason):
                self._adapter_loads.deliver(number, AdapterUnusable(reason))
            case PrefixHandled(number=number, report=report):
                self._prefix_calls.deliver(number, report)
            case Loading():
                self._life.loading = message
                self._callbacks.on_loading(message)
            case TokenizerReady(tokenizer=tokenizer):
                self._callbacks.on_tokenizer(tokenizer)
            case Ready(info=info):
                self._life.become_ready(info)
                self._clock.restart(time.monotonic())
                self._intake.on_ready(info)
                self._batch_lane.open(info.max_num_seqs)
                self._callbacks.on_ready(info)
                if self._life.num_restarts:
                    logger.info("the engine is ready again")
                self._send_requests()
                self._life.release_waiting()
            case Started(ids=ids, stats=gauges):
                self._intake.start(ids)
                self._pooling.start(ids)
                if gauges is not None:
                    self._callbacks.on_step(gauges)
            case Working():
                self._clock.restart(time.monotonic())
            case Failed():
                self._life.fail(message)


def _refused(request: SubmittedRequest, error: str) -> RequestOutput:
    return RequestOutput(id=request.id, finish_reason=FinishReason.ERROR, error=error, is_refused=True)


def _percent(progress: float | None) -> str:
    return "" if progress is None else f", {progress:.0%}".replace("%", " %")
