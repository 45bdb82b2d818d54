"""EngineClient: how the API process talks to an engine, whichever process that lives in."""

import enum
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from engine.client.queue.batch_lane import BatchLane
from engine.client.queue.first_token import FirstToken
from engine.protocol import (
    AbortReason,
    AdapterInfo,
    EngineInfo,
    EngineRequest,
    Loading,
    PoolingOutput,
    PoolingRequest,
    RequestOutput,
    ServiceClass,
    StepStats,
    TokenizerInfo,
)


class EngineState(enum.StrEnum):
    LOADING = "loading"  # also while it is started again after a crash
    READY = "ready"
    DEAD = "dead"  # it will not come back
    UNLOADED = "unloaded"  # there is none until a request asks for its model


class RestartReason(enum.StrEnum):
    """Why an engine process was started again."""

    CRASH = "crash"  # it ended by itself, or somebody killed it
    HANG = "hang"  # it was killed, since it did not get on with its work


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """A snapshot for /health, /ready and admission."""

    state: EngineState
    reason: str  # why not READY, for people; empty when READY
    stage: str | None  # of LOADING, such as "load weights"; None before it is known
    progress: float | None  # of the stage, 0..1 while LOADING, None if unknown
    num_open: int  # requests submitted and not ended
    num_running: int  # of clients, as num_waiting
    num_waiting: int
    num_waiting_tokens: int  # of prompts that the engine has not begun to compute
    seconds_since_progress: float  # since the engine's last sign of it, or since an idle engine got work; 0 when idle
    num_restarts: int
    num_batch: int = 0  # of num_open, lines of batches


class RequestStream(Protocol):
    """The outputs of one request, merged while the reader is slow.

    Iteration yields RequestOutputs, the last one with a finish_reason, and then stops. If the engine process ends, the
    next one goes on with the request, after the tokens that came. It raises EngineDied if the engine ends a second time
    while it computes this request, or for good, or if nobody can go on with it (mirostat); EngineStopped where the
    server is stopping. If the engine could not complete this request alone, the terminal output has FinishReason.ERROR.
    """

    def __aiter__(self) -> AsyncIterator[RequestOutput]: ...

    def abort(self, reason: AbortReason) -> None:
        """End the request now. Idempotent, never blocks, and allowed after the end. Later outputs are dropped and
        their tokens counted as discarded."""


class EngineClient(Protocol):
    """One engine. All methods are called from the event loop's thread."""

    @property
    def info(self) -> EngineInfo:
        """The content of READY; raises EngineUnavailable before it."""

    def status(self) -> EngineStatus: ...

    def check_capacity(
        self, num_requests: int, num_new_tokens: int = 1, service_class: ServiceClass = ServiceClass.INTERACTIVE
    ) -> None:
        """Raise QueueFull or EngineUnavailable unless `num_requests` may be submitted now, with no await between.

        num_new_tokens: of their prompts, each of which counts once. Requests of batches do not stand in the clients'
        queue, and are never refused for its length.
        """

    @property
    def batch_lane(self) -> BatchLane:
        """Where whoever feeds a batch asks for room before it submits a line of it."""

    def predict_first_token(self, num_new_tokens: int, service_class: ServiceClass) -> FirstToken:
        """Of a request that is submitted now. num_new_tokens: as for submit."""

    def drain_s(self) -> float:
        """How long the requests that wait take at the recent rate, in seconds and within bounds."""

    def set_log_level(self, level: str) -> None:
        """Of the engine. One that is started later takes it from the environment."""

    def submit(self, request: EngineRequest, *, num_new_tokens: int | None = None) -> RequestStream:
        """Hand over a request; raises QueueFull, for the number of clients' requests, or EngineUnavailable. The caller
        must iterate to the end or abort.

        num_new_tokens: of its prompt, less what other requests of the same client compute; all if it is left out.
        """

    async def load_adapter(self, path: str) -> AdapterInfo:
        """Read the adapter at `path` and check it against the model, which has --enable-lora.

        Raises AdapterUnusable with the reason, EngineUnavailable, and EngineDied or EngineStopped if the engine ends
        meanwhile.
        """

    def forget_adapter(self, digest: bytes) -> None:
        """No new request will have this one."""

    async def pool(self, requests: Sequence[PoolingRequest]) -> list[PoolingOutput]:
        """The outputs of texts, in order; only of an engine whose info has `pooling`, which generates nothing.

        Together they count as one request that waits. If the engine process ends, the next one computes what is left.
        Raises QueueFull and EngineUnavailable before anything is computed, EngineDied if the engine ends twice while it
        computes one of the texts, or for good, and EngineStopped. If it is canceled, what has not begun is not
        computed; if one has waited too long, all that are left have. An engine that gives up on one text says so in its
        output alone, by FinishReason.ERROR.
        """


def _ignore(*_: object) -> None:
    """Ignore an event that the caller does not listen to."""


@dataclass(frozen=True, slots=True)
class EngineCallbacks:
    """Functions to call on events of the engine and its process."""

    on_step: Callable[[StepStats], None] = _ignore
    on_loading: Callable[[Loading], None] = _ignore
    on_tokenizer: Callable[[TokenizerInfo], None] = _ignore
    on_discarded: Callable[[int], None] = _ignore  # tokens; see OutputStream
    on_first_token: Callable[[FirstToken, float], None] = _ignore  # the prediction, and the seconds that it took
    on_restart: Callable[[RestartReason], None] = _ignore
    on_process: Callable[[int | None], None] = _ignore  # the id of a process that started; None when it has ended
    on_ready: Callable[[EngineInfo], None] = _ignore
