"""ServedAdapter: one LoRA adapter as requests see it; AdapterClient: an EngineClient that submits requests with it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from engine.client.interface import EngineClient, EngineStatus, RequestStream
from engine.client.queue.batch_lane import BatchLane
from engine.client.queue.first_token import FirstToken
from engine.errors import EngineUnavailable, InvalidRequest
from engine.protocol import (
    AdapterInfo,
    AdapterRef,
    EngineInfo,
    EngineRequest,
    PoolingOutput,
    PoolingRequest,
    ServiceClass,
)
from server.keys.caller import ANYBODY, Caller


@dataclass(frozen=True, slots=True)
class ServedAdapter:
    """One version of an adapter under one name."""

    name: str
    path: str  # that the engine reads
    base_name: str  # canonical name of its base model
    info: AdapterInfo | None = None  # None until its model is loaded for the first time
    owner: str | None = None  # of the fine-tuning job that made it; None: from the server's options or an operator
    created_s: int = field(default_factory=lambda: int(time.time()))

    def is_for(self, caller: Caller) -> bool:
        """Whether the caller may use the adapter. A fine-tuned adapter is for the job's own key, for operators, and for
        keys that name it."""
        if self.owner is None or self.owner == ANYBODY.owner or caller.is_operator:
            return caller.may_use(self.name)
        if caller.owner == self.owner:
            return caller.may_use(self.name) or caller.may_use(self.base_name)
        return caller.models is not None and self.name in caller.models

    @property
    def ref(self) -> AdapterRef:
        """The adapter as engine requests name it. Raises EngineUnavailable while its model has not been loaded."""
        if self.info is None:
            raise EngineUnavailable("the adapter has not been read yet")
        return AdapterRef(self.name, self.path, self.info.digest)


class AdapterClient:
    """The EngineClient of a model for one request with an adapter. All that the request submits uses the version that
    was current at its first submission."""

    def __init__(self, client: EngineClient, current: Callable[[], ServedAdapter]) -> None:
        """current: returns the current version; raises ModelNotFound if the adapter is no longer served."""
        self._client = client
        self._current = current
        self._ref: AdapterRef | None = None

    def submit(self, request: EngineRequest, *, num_new_tokens: int | None = None) -> RequestStream:
        if self._ref is None:
            self._ref = self._current().ref
        return self._client.submit(msgspec.structs.replace(request, adapter=self._ref), num_new_tokens=num_new_tokens)

    async def pool(self, requests: Sequence[PoolingRequest]) -> list[PoolingOutput]:  # noqa: ARG002
        raise InvalidRequest("adapters are for models that generate text; name a model without one", param="model")

    @property
    def info(self) -> EngineInfo:
        return self._client.info

    def status(self) -> EngineStatus:
        return self._client.status()

    def check_capacity(
        self, num_requests: int, num_new_tokens: int = 1, service_class: ServiceClass = ServiceClass.INTERACTIVE
    ) -> None:
        self._client.check_capacity(num_requests, num_new_tokens, service_class)

    @property
    def batch_lane(self) -> BatchLane:
        return self._client.batch_lane

    def predict_first_token(self, num_new_tokens: int, service_class: ServiceClass) -> FirstToken:
        return self._client.predict_first_token(num_new_tokens, service_class)

    def drain_s(self) -> float:
        return self._client.drain_s()

    def set_log_level(self, level: str) -> None:
        self._client.set_log_level(level)

    async def load_adapter(self, path: str) -> AdapterInfo:
        return await self._client.load_adapter(path)

    def forget_adapter(self, digest: bytes) -> None:
        self._client.forget_adapter(digest)
