"""Ends of requests that generate no text, such as decisions and embeddings: counted, and as errors for the client."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from engine.errors import (
    EngineDied,
    EngineStopped,
    EngineUnavailable,
    InvalidRequest,
    QueueFull,
    QueueTimeout,
    RequestFailed,
)
from engine.protocol import FinishReason, PoolingOutput, RequestOutput
from server.errors import AnswerTimeout
from server.generation.terms import RequestTerms, waited_too_long
from server.live.requests import LiveGeneration
from server.served.model import ServedModel


class RequestMeter(LiveGeneration, Protocol):
    """Counts one request in metrics, in its record and against its key's limits."""

    def refuse(self) -> None:
        """Record that the engine refused the request."""
        ...

    def end(self, reason: FinishReason, /) -> None:
        """Record an end without an answer."""
        ...


@contextmanager
def metered(model: ServedModel, meter: RequestMeter) -> Iterator[None]:
    """Show a request among those that run while the context computes it, and count how it ends if that raises."""
    model.live.requests.begin(meter)
    try:
        yield
    except BaseException as error:
        match error:
            case EngineStopped():
                meter.end(FinishReason.ABORT)
            case QueueTimeout():
                meter.end(FinishReason.QUEUE_TIMEOUT)
            case EngineDied() | RequestFailed() | InvalidRequest():
                meter.end(FinishReason.ERROR)
            case QueueFull() | EngineUnavailable():
                meter.refuse()
            case AnswerTimeout():
                meter.end(FinishReason.TIMEOUT)
            case _:
                meter.end(FinishReason.ABORT)
        raise
    finally:
        model.live.requests.end(meter)


def failure_of(output: PoolingOutput | RequestOutput, path: str, terms: RequestTerms, model: ServedModel) -> Exception:
    """Return the error for an input or question that was not computed. path: its place in the request."""
    match output.finish_reason:
        case FinishReason.QUEUE_TIMEOUT:
            return waited_too_long(terms, model.client)
        case FinishReason.TIMEOUT:
            return terms.out_of_time()
        case FinishReason.ERROR if output.is_refused:
            return InvalidRequest(f"{path}: {output.error}", param=output.refused_param or path)
        case FinishReason.ABORT:
            return EngineUnavailable("the server ended this request because it is shutting down")
    return RequestFailed(f"{path}: {output.error or 'the engine could not compute it'}")
