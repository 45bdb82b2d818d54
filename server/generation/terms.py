"""RequestTerms: who sent a request and when, its time limits, and its priority in the order of service."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from engine.client.interface import EngineClient, EngineState, EngineStatus
from engine.errors import QueueTimeout
from engine.protocol import ServiceClass
from engine.wording import counted
from server.errors import AnswerTimeout
from server.keys.caller import current_caller
from server.served.model import ServedModel

DEFAULT_TIER = "default"
# OpenAI's names. The engine defines the rules of each class.
_TIERS = {
    "auto": ServiceClass.INTERACTIVE,
    DEFAULT_TIER: ServiceClass.INTERACTIVE,
    "flex": ServiceClass.BACKGROUND,
    "priority": ServiceClass.URGENT,
}


@dataclass(frozen=True, slots=True)
class RequestTerms:
    arrival_s: float  # time.monotonic()
    timeout_s: float | None = None  # time limit from the arrival
    priority: int = 0
    service_tier: str = DEFAULT_TIER
    queue_timeout_s: float | None = None  # from the arrival to the first step
    tenant: str = ""  # whose share of the engine the request counts against
    tenant_weight: float = 1.0
    cache_salt: str = ""  # requests with the same salt share cached prefixes
    is_batch: bool = False  # a line of a batch

    @property
    def service_class(self) -> ServiceClass:
        return ServiceClass.BATCH if self.is_batch else _TIERS[self.service_tier]

    @property
    def yields_to_all(self) -> bool:
        """Whether the request gives way to all clients' requests of other tiers: a line of a batch, or the tier flex.
        Queue limits do not apply to such a request."""
        return self.is_batch or self.service_class is ServiceClass.BACKGROUND

    @property
    def deadline_s(self) -> float | None:
        return None if self.timeout_s is None else self.arrival_s + self.timeout_s

    @property
    def start_by_s(self) -> float | None:
        if self.queue_timeout_s is None or self.yields_to_all:
            return None
        return self.arrival_s + self.queue_timeout_s

    def engine_fields(self, *, is_first: bool) -> dict[str, Any]:
        """Return the scheduling fields of one of the request's engine requests; only the first has a start deadline."""
        return {
            "arrival_s": self.arrival_s,
            "deadline_s": self.deadline_s,
            "start_by_s": self.start_by_s if is_first else None,
            "priority": self.priority,
            "service_class": self.service_class,
            "tenant": self.tenant,
            "tenant_weight": self.tenant_weight,
        }

    @contextlib.asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """Raise AnswerTimeout if the request times out inside the context, before the engine has the request."""
        try:
            async with asyncio.timeout_at(self.deadline_s) as limit:  # the loop's clock is time.monotonic()
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise self.out_of_time() from None

    def out_of_time(self) -> AnswerTimeout:
        return AnswerTimeout(
            f"the request's timeout of {self.timeout_s:g} s was over before its answer began; "
            "give it more, or send it when the server has less to do"
        )


class TermsFields(Protocol):
    """Fields of a request's body that RequestTerms are made from."""

    timeout: float | None
    priority: int | None
    service_tier: Literal["auto", "default", "flex", "priority"] | None
    cache_salt: str | None


def request_terms(body: TermsFields, model: ServedModel, arrival_s: float) -> RequestTerms:
    """Return the request's terms. Terms that the body leaves out come from the server's options, whose time limits do
    not apply to a line of a batch."""
    caller = current_caller()
    timeout_s = body.timeout
    if timeout_s is None and not _is_batch.get():
        timeout_s = model.config.request_timeout
    return RequestTerms(
        arrival_s=arrival_s,
        timeout_s=timeout_s,
        priority=body.priority or 0,
        service_tier=served_tier(body) or DEFAULT_TIER,
        queue_timeout_s=model.config.queue_timeout,
        tenant=caller.tenant,
        tenant_weight=caller.weight,
        cache_salt=caller.cache_salt(body.cache_salt or ""),
        is_batch=_is_batch.get(),
    )


_is_batch: ContextVar[bool] = ContextVar("is_batch", default=False)


def serve_as_batch() -> None:
    """Mark the requests of this task, and of tasks it starts, as lines of a batch."""
    _is_batch.set(True)


def served_tier(body: TermsFields) -> str | None:
    """Return the service_tier to report in the answer; None if the request sets none."""
    return DEFAULT_TIER if body.service_tier == "auto" else body.service_tier


def waited_too_long(terms: RequestTerms, client: EngineClient) -> QueueTimeout:
    """Return the error for a request that did not start before `start_by_s`."""
    retry_after_s = client.drain_s()
    parts = (
        f"the request did not begin within {terms.queue_timeout_s:g} s (--queue-timeout)",
        *_before_it(client.status()),
        f"try again in {math.ceil(retry_after_s)} s",
    )
    return QueueTimeout("; ".join(parts), retry_after_s=retry_after_s)


def _before_it(status: EngineStatus) -> Iterator[str]:
    """Yield why the request waited; nothing if the engine is idle, as when the request's own grammar delayed it."""
    if status.state is not EngineState.READY:
        yield status.reason
        return
    running, waiting = status.num_running, status.num_waiting
    if running or waiting:
        run = counted(running, "request runs", "requests run")
        yield f"{run} and {f'{waiting} wait' if waiting else 'no other waits'}"
