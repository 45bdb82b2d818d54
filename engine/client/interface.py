"""EngineClient: the API process's interface to an engine, which usually runs in a child process."""

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
    Loading,
    NamedPrefix,
    PoolingOutput,
    PoolingRequest,
    PrefixAction,
    PrefixReport,
    RequestOutput,
    ServiceClass,
    StepStats,
    SubmittedRequest,
    TokenizerInfo,
)


class EngineState(enum.StrEnum):
    LOADING = "loading"  # also while the engine is started again after a crash
    READY = "ready"
    DEAD = "dead"  # for good
    UNLOADED = "unloaded"  # until a request asks for the model


class RestartReason(enum.StrEnum):
    """Why an engine process was started again."""

    CRASH = "crash"  # the process ended by itself, or was killed from outside
    HANG = "hang"  # the supervisor killed a process that made no progress


@dataclass(frozen=True, slots=True)
class EngineEnd:
    """The end of an engine process after which another one is started."""

    reason: RestartReason
    cause: str  # for people: how it ended, with the signal or the exit status
    num_continued: int = 0  # open requests that the next process continues or computes; a text to pool is one
    num_failed: int = 0  # open requests that cannot be continued


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """A snapshot for /health, /ready and admission."""

    state: EngineState
    reason: str  # why not READY, for people; empty when READY
    stage: str | None = None  # stage of loading, such as "load weights"; None before it is known
    progress: float | None = None  # progress of the stage, 0..1; None if unknown or not LOADING
    num_open: int = 0  # requests submitted and not ended
    num_running: int = 0  # clients' requests; num_waiting counts only clients' requests too
    num_waiting: int = 0
    num_waiting_tokens: int = 0  # tokens of prompts whose computation has not started
    num_cached_tokens: int = 0  # num_waiting_tokens that were in the prefix cache when last looked up
    num_pending_tokens: int = 0  # uncomputed tokens of prompts whose computation has started
    kv_usage: float = 0.0  # share of the KV cache's blocks in use
    seconds_since_progress: float = 0.0  # since a sign of progress, or since an idle engine got work; 0 when idle
    num_restarts: int = 0
    num_batch: int = 0  # open requests that are lines of batches
    is_restarting: bool = False  # LOADING after it was READY: requests are accepted, and wait for the next process


class RequestStream(Protocol):
    """The outputs of one request, merged while the reader is slow.

    Iteration yields RequestOutputs, the last one with a finish_reason, and then stops. If the engine process ends, the
    next process continues the request after the tokens received so far. Iteration raises EngineDied if the engine ends
    a second time while it computes this request, if it ends for good, or if the request cannot be continued (mirostat);
    and EngineStopped if the server is stopping. If only this request failed, its terminal output has
    FinishReason.ERROR.
    """

    def __aiter__(self) -> AsyncIterator[RequestOutput]: ...

    def abort(self, reason: AbortReason) -> None:
        """End the request now. Idempotent, never blocks, and allowed after the end. Later outputs are dropped, and
        their tokens are counted as discarded."""


class EngineClient(Protocol):
    """The client of one engine. All methods must be called from the event loop's thread."""

    @property
    def info(self) -> EngineInfo:
        """The engine's description. Raises EngineUnavailable until the engine has been ready once."""

    def status(self) -> EngineStatus: ...

    def check_capacity(
        self, num_requests: int, num_new_tokens: int = 1, service_class: ServiceClass = ServiceClass.INTERACTIVE
    ) -> None:
        """Raise QueueFull or EngineUnavailable unless `num_requests` may be submitted now, before the next await.

        num_new_tokens: the requests' prompt tokens; a prompt that several requests share counts once. Lines of batches
        are not in the clients' queue, and are never refused because of its length.
        """

    @property
    def batch_lane(self) -> BatchLane:
        """The limit on lines of batches in the engine; a batch must acquire room before it submits a line."""

    def predict_first_token(self, num_new_tokens: int, service_class: ServiceClass) -> FirstToken:
        """Predict when a request that is submitted now would get its first token. num_new_tokens: its prompt tokens,
        without those that another choice of the same API request computes."""

    def drain_s(self) -> float:
        """Estimate the seconds until all waiting requests have ended, at the recent rate, at most two minutes."""

    def set_log_level(self, level: str) -> None:
        """Set the log level of the running engine process. Later processes inherit theirs from the environment."""

    def submit(self, request: SubmittedRequest, *, num_new_tokens: int | None = None) -> RequestStream:
        """Submit a request. The caller must iterate to the end or abort.

        num_new_tokens: prompt tokens, without those that another choice of the same API request computes; default: all.
        Raises QueueFull if too many requests of clients wait, and EngineUnavailable while the engine accepts none.
        """

    async def load_adapter(self, path: str) -> AdapterInfo:
        """Read the adapter at `path` and check it against the model, which must be served with --enable-lora.

        Raises AdapterUnusable with the reason, EngineUnavailable, and EngineDied or EngineStopped if the engine ends
        meanwhile.
        """

    def forget_adapter(self, digest: bytes) -> None:
        """Notify the engine that no new request will use this adapter."""

    async def handle_prefix(self, action: PrefixAction, prefix: NamedPrefix) -> PrefixReport:
        """Save, pin or unpin a named prefix, or only report it. Only for an engine that generates.

        Raises EngineUnavailable, and EngineDied or EngineStopped if the engine ends meanwhile.
        """

    async def pool(self, requests: Sequence[PoolingRequest]) -> list[PoolingOutput]:
        """Compute the texts' vectors or scores; return them in order. Only for an engine whose info has `pooling`.

        Together the texts count as one waiting request. If the engine process ends, the next process computes the texts
        that have no output yet. Raises QueueFull and EngineUnavailable before anything is computed, EngineDied if the
        engine ends twice while it computes one of the texts, or for good, and EngineStopped if the server is stopping.
        After a cancellation, texts that have not been started are not computed; if one text has waited too long, the
        call's other texts end too. If the computation of one text fails, only its output has FinishReason.ERROR.
        """


def ignore(*_: object) -> None:
    """Do nothing; the default of a callback."""


@dataclass(frozen=True, slots=True)
class EngineCallbacks:
    """Functions to call on events of the engine and its process."""

    on_step: Callable[[StepStats], None] = ignore
    on_loading: Callable[[Loading], None] = ignore
    on_tokenizer: Callable[[TokenizerInfo], None] = ignore
    on_discarded: Callable[[int], None] = ignore  # number of generated tokens that no reader will get
    on_first_token: Callable[[FirstToken, float], None] = ignore  # the prediction, and the seconds that it took
    on_restart: Callable[[EngineEnd], None] = ignore
    on_process: Callable[[int | None], None] = ignore  # the id of a process that started; None when it has ended
    on_ready: Callable[[EngineInfo], None] = ignore
