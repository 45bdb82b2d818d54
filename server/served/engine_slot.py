"""EngineSlot: an EngineClient for a model whose engine is started and stopped on demand."""

from collections.abc import Sequence

from engine.client.interface import EngineClient, EngineState, EngineStatus, RequestStream
from engine.client.queue.batch_lane import BatchLane
from engine.client.queue.first_token import FirstToken
from engine.errors import EngineUnavailable
from engine.protocol import (
    AdapterInfo,
    EngineInfo,
    NamedPrefix,
    PoolingOutput,
    PoolingRequest,
    PrefixAction,
    PrefixReport,
    ServiceClass,
    SubmittedRequest,
)


class EngineSlot:
    """An EngineClient that forwards calls to the current engine. Without one, it refuses requests with a reason."""

    def __init__(self) -> None:
        self.engine: EngineClient | None = None
        self.reason = "the server is finding out how much memory its models need"  # why there is no engine
        self._was_emptied = False  # before that, the slot counts as loading
        self._log_level: str | None = None  # set by an operator

    def engine_is_ready(self) -> None:
        """Set the engine's log level, if it was changed before the engine was ready."""
        if self.engine is not None and self._log_level is not None:
            self.engine.set_log_level(self._log_level)

    def empty(self, reason: str = "the model is not loaded") -> None:
        self.engine, self.reason, self._was_emptied = None, reason, True

    @property
    def info(self) -> EngineInfo:
        return self._engine().info

    def status(self) -> EngineStatus:
        if self.engine is not None:
            return self.engine.status()
        state = EngineState.UNLOADED if self._was_emptied else EngineState.LOADING
        return EngineStatus(state, self.reason)

    def check_capacity(
        self, num_requests: int, num_new_tokens: int = 1, service_class: ServiceClass = ServiceClass.INTERACTIVE
    ) -> None:
        self._engine().check_capacity(num_requests, num_new_tokens, service_class)

    @property
    def batch_lane(self) -> BatchLane:
        return self._engine().batch_lane

    def predict_first_token(self, num_new_tokens: int, service_class: ServiceClass) -> FirstToken:
        return self._engine().predict_first_token(num_new_tokens, service_class)

    def drain_s(self) -> float:
        return self._engine().drain_s()

    def set_log_level(self, level: str) -> None:
        self._log_level = level
        if self.engine is not None:
            self.engine.set_log_level(level)

    def submit(self, request: SubmittedRequest, *, num_new_tokens: int | None = None) -> RequestStream:
        return self._engine().submit(request, num_new_tokens=num_new_tokens)

    async def load_adapter(self, path: str) -> AdapterInfo:
        return await self._engine().load_adapter(path)

    def forget_adapter(self, digest: bytes) -> None:
        if self.engine is not None:
            self.engine.forget_adapter(digest)

    async def handle_prefix(self, action: PrefixAction, prefix: NamedPrefix) -> PrefixReport:
        return await self._engine().handle_prefix(action, prefix)

    async def pool(self, requests: Sequence[PoolingRequest]) -> list[PoolingOutput]:
        return await self._engine().pool(requests)

    def _engine(self) -> EngineClient:
        """Return the engine. Raises EngineUnavailable if there is none."""
        if self.engine is None:
            raise EngineUnavailable(self.reason)
        return self.engine
