"""Endpoint: the definition of one path that computes with a model, from the body's type to the OpenAPI description."""

import contextlib
import enum
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from engine.errors import (
    EngineDied,
    EngineStopped,
    EngineUnavailable,
    QueueFull,
    QueueTimeout,
    RequestFailed,
    WaitTooLong,
)
from engine.protocol import PoolingTask
from server.context import ServerContext
from server.endpoints.binding.suitability import SuitablePaths
from server.endpoints.binding.work import Work
from server.errors import (
    AnswerTimeout,
    BudgetSpent,
    ModelFailed,
    ModelNotFound,
    ModelNotLoaded,
    RequestInProgress,
    TokensLimited,
)
from server.keys.caller import current_caller
from server.openapi.operation import RESUMING_ERRORS, Operation
from server.pooling.checks import pooling_info
from server.schemas.base import StrictModel, validate
from server.served.model import ServedModel
from server.served.models import ServedModels

B = TypeVar("B", bound=StrictModel)


class Capability(enum.Enum):
    """The ability that a model needs for an endpoint."""

    GENERATES = enum.auto()  # it generates text
    POOLS = enum.auto()  # it computes embeddings or scores
    TOKENIZES = enum.auto()  # any model: only the tokenizer and the chat template are used


_ENGINE = (EngineUnavailable, ModelNotLoaded, ModelFailed, EngineDied, EngineStopped)
_LIMITS = (QueueFull, QueueTimeout, TokensLimited, BudgetSpent, RequestFailed, AnswerTimeout, RequestInProgress)

# Errors of every endpoint with the capability, in addition to those of every route with a body.
ERRORS: Mapping[Capability, Sequence[type[Exception]]] = {
    Capability.GENERATES: (ModelNotFound, WaitTooLong, *_LIMITS, *_ENGINE),
    Capability.POOLS: (ModelNotFound, *_LIMITS, *_ENGINE),
    Capability.TOKENIZES: (
        ModelNotFound,
        ModelNotLoaded,
        ModelFailed,
        EngineUnavailable,
        EngineStopped,
        RequestInProgress,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointRequest:
    """A request to an endpoint without its body: model, owner and arrival time.

    is_batch: whether the request is a line of a batch, which waits in cases where a client's request is refused.
    """

    context: ServerContext
    model: ServedModel
    capability: Capability
    suitable: SuitablePaths
    owner: str
    id: str
    arrival_s: float  # time.monotonic()
    is_batch: bool = False

    @contextlib.asynccontextmanager
    async def preparing(self) -> AsyncIterator[None]:
        """Admit the request, and count it as waiting while its prompt is rendered and tokenized.

        Admission is checked in three places. `QueueMiddleware` checks the queue before the body is read, so that
        refusals are cheap. This method checks queue, drain, engine, model and key before tokenization; without the
        count, a burst of requests would be tokenized and only then refused. `Generation` and `pool` check engine and
        queue again on submission, when the number of tokens is known. A line of a batch skips the first two checks, and
        waits for its turn.

        Raises QueueFull, EngineUnavailable, InvalidRequest and RateLimited.
        """
        if self.is_batch:
            async with self.model.client.batch_lane.preparing():
                self.admit()
                yield
            return
        self.model.check_queue()
        with self.model.preparing():
            self.admit()
            yield

    def admit(self) -> None:
        """Raise EngineUnavailable if the server drains or no engine is ready, InvalidRequest if the model does not fit
        the endpoint, and RateLimited if the key has reached a limit."""
        self.model.check_admission()
        match self.capability:
            case Capability.GENERATES:
                self.suitable.check_generates(self.model)
            case Capability.POOLS:
                pooling_info(self.model)
        if (account := current_caller().account) is not None:
            account.check_available()


def _named_model(body: Any, models: ServedModels) -> ServedModel:
    return models.find(body.model)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint(Generic[B]):
    """One POST endpoint, for HTTP requests and, up to `prepare`, for lines of batches.

    name: operation id in the OpenAPI document. summary: description in the documentation's table of endpoints.

    bodies: types of the body. read: parses the JSON into a body; None validates it as the first type.

    check: raises InvalidRequest for bodies that can be refused before the model is loaded. `prepare` checks this again.

    prepare: turns a body into Work, within `request.preparing()` for everything slow.

    model: finds the body's model, or raises ModelNotFound. needs_model: whether the body needs the model loaded.

    loading_error: makes the last bytes of a stream whose model failed to load, from an error's JSON. None: the
    protocol's streams cannot start before their first event.
    """

    path: str
    name: str
    summary: str
    tag: str
    bodies: Sequence[type[B]]
    capability: Capability
    check: Callable[[B, EndpointRequest], Awaitable[None]]
    prepare: Callable[[B, EndpointRequest], Awaitable[Work]]
    answers: Mapping[str, Any]  # types of responses, and of events for streams, by media type
    example: Mapping[str, Any]
    read: Callable[[dict[str, Any]], B] | None = None
    model: Callable[[B, ServedModels], ServedModel] = _named_model
    needs_model: Callable[[B, ServedModel], bool] = lambda _body, _model: True
    errors: Sequence[type[Exception]] = ()  # for the OpenAPI document, besides errors common to its capability
    loading_error: Callable[[bytes], bytes] | None = None
    tasks: tuple[PoolingTask, ...] = ()  # tasks for which errors suggest the endpoint, its main task first
    is_batchable: bool = False
    is_resumable: bool = False  # its streams outlive their connections if the body says `resumable`
    has_end_mark: bool = False  # its streams end with [DONE]
    has_constraints: bool = False  # its body takes the fields of structured outputs
    always_waits: bool = True  # every request waits for the engine, so a full queue refuses it before its body is read
    span_operation: str = "chat"  # gen_ai.operation.name of its traces

    def body(self, raw: dict[str, Any]) -> B:
        """Parse and validate the JSON of a body. Raises InvalidRequest."""
        return validate(self.bodies[0], raw) if self.read is None else self.read(raw)

    async def check_before_loading(self, body: B, request: EndpointRequest) -> None:
        """Run `check` if the model is not loaded, so that a bad body does not load it. Raises InvalidRequest."""
        if not request.model.is_loaded:
            await self.check(body, request)

    @property
    def waits_for_engine(self) -> bool:
        return self.always_waits and self.capability is not Capability.TOKENIZES

    @property
    def operation(self) -> Operation:
        """The endpoint's operation in the OpenAPI document."""
        resuming = RESUMING_ERRORS if self.is_resumable else ()
        return Operation(
            answers=self.answers,
            example=self.example,
            bodies=self.bodies,
            errors=(*ERRORS[self.capability], *resuming, *self.errors),
            has_end_mark=self.has_end_mark,
            has_constraints=self.has_constraints,
        )
