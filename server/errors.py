"""The table from exception types to HTTP statuses and OpenAI's error objects, for responses and streamed events."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

from engine.errors import (
    EngineDied,
    EngineStopped,
    EngineUnavailable,
    HeadraceError,
    InvalidRequest,
    QueueFull,
    QueueTimeout,
    RequestFailed,
    Shed,
    WaitTooLong,
)

logger = logging.getLogger(__name__)


class InvalidApiKey(HeadraceError):
    """The request has no key, or an unknown one."""


class ExpiredApiKey(InvalidApiKey):
    """The key has expired."""


class InsufficientPermissions(HeadraceError):
    """The request needs an operator's API key."""


class PullNotAllowed(HeadraceError):
    """No --pull-allow names the model to fetch."""


class TooManyPulls(HeadraceError):
    """Too many models are being fetched, or wait for it."""


class PullFailed(HeadraceError):
    """The model could not be fetched."""


class RateLimited(HeadraceError):
    """The API key has reached its request limit; try again after `retry_after_s`, if it is set."""

    def __init__(self, message: str, *, retry_after_s: float | None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TokensLimited(RateLimited):
    """The API key has reached its limit of tokens per minute."""


class BudgetSpent(RateLimited):
    """The API key has used its token budget for the day or month."""


class ModelFailed(EngineUnavailable):
    """The requested model could not be loaded, or its tokenizer or chat template cannot be used."""

    def __init__(self, message: str, *, retry_after_s: float | None) -> None:
        """retry_after_s: None if a retry will fail too, until the operator has changed the model's files or options."""
        super().__init__(message)
        self.retry_after_s = retry_after_s

    @classmethod
    def because(cls, reason: str) -> Self:
        """Return the error for a failure that lasts until the operator has changed the model. reason: names no
        files."""
        return cls(f"the model cannot be used until its operator changes it: {reason}", retry_after_s=None)


class ModelNotFound(HeadraceError):
    """The requested model is not served here."""


class AdapterNotFound(HeadraceError):
    """The adapter in an operator's request is not served here."""


class ModelNotLoaded(EngineUnavailable):
    """The requested model is served here, but cannot be loaded now."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NotServed(HeadraceError):
    """The path exists in a protocol that this server speaks, but is not implemented."""


class ForeignName(HeadraceError):
    """A local request to a server without keys has a Host header that does not name this machine (DNS rebinding)."""


class RequestTooLarge(HeadraceError):
    """The request body is longer than --max-request-bytes."""


class FileTooLarge(RequestTooLarge):
    """The file is longer than --max-file-bytes, or a part of an upload is longer than 64 MiB."""


class RequestTimeout(HeadraceError):
    """The client took too long to send its request."""


class AnswerTimeout(HeadraceError):
    """The request's time limit was reached before its answer started."""


class AmbiguousRequest(InvalidRequest):
    """Another HTTP server could parse this request differently, as in request smuggling."""


class HeadersTooLarge(HeadraceError):
    """The header lines are too many or too long."""


class TooManyConnections(HeadraceError):
    """More connections are open than --max-connections or --max-connections-per-client."""


class TooManyWatchers(HeadraceError):
    """Too many dashboard streams are open."""


class StreamNotFound(HeadraceError):
    """The resumable stream does not exist, or belongs to another key."""


class RequestNotKnown(HeadraceError):
    """No running or recent request has the given id."""


class NotStored(HeadraceError):
    """The stored object does not exist, or belongs to another key.

    `param` is the field of the body that names the object; None where the URL does.
    """

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class PrefixNotFound(HeadraceError):
    """No prefix of the KV cache has this name."""


class PinLimitExceeded(HeadraceError):
    """More blocks of the KV cache would be pinned than may be."""


class AlreadyStopping(HeadraceError):
    """The server is already stopping, which cannot be undone."""


class EventsDropped(HeadraceError):
    """The stream cannot be resumed: the requested events are no longer stored."""


class StreamStopped(HeadraceError):
    """The stream was deleted while it was being read."""


class RequestInProgress(HeadraceError):
    """The first request with the same Idempotency-Key is not answered yet."""


class StorageFailed(HeadraceError):
    """The storage under --data-dir cannot be read or written."""


class StorageFull(StorageFailed):
    """The disk or a storage limit is full."""


class ClientGone(Exception):
    """The client closed its connection, so no answer can be sent."""


def needs_one_server(what: str) -> str:
    """Return the message of a server that is one of several. what: the thing with its verb, such as "files need"."""
    return f"{what} one server, and this is one of several behind a front (headrace fleet); use headrace serve"


@dataclass(frozen=True, slots=True)
class _Kind:
    """The status and error fields for an exception type."""

    status: int
    type: str
    code: str | None = None
    param: str | None = None


UNAVAILABLE_RETRY_S = 5  # loading, restarting and the switch to another server take seconds, not moments

TTFT_HEADER = "x-predicted-ttft"  # seconds from a request's arrival to its first token

_INVALID = "invalid_request_error"

ERRORS: Mapping[type[Exception], _Kind] = {
    InvalidRequest: _Kind(400, _INVALID),  # its subclasses have their own codes
    InvalidApiKey: _Kind(401, _INVALID, "invalid_api_key"),
    InsufficientPermissions: _Kind(403, _INVALID, "insufficient_permissions"),
    PullNotAllowed: _Kind(403, _INVALID, "pull_not_allowed", "model"),
    ModelNotFound: _Kind(404, _INVALID, "model_not_found", "model"),
    AdapterNotFound: _Kind(404, _INVALID, "model_not_found", "lora_name"),
    NotServed: _Kind(404, _INVALID, "not_served"),
    NotStored: _Kind(404, _INVALID),
    RequestNotKnown: _Kind(404, _INVALID, "request_not_known"),
    StreamNotFound: _Kind(404, _INVALID, "stream_not_found"),
    PrefixNotFound: _Kind(404, _INVALID, "prefix_not_found", "name"),
    RequestTimeout: _Kind(408, _INVALID, "request_timeout"),
    AlreadyStopping: _Kind(409, _INVALID, "already_stopping"),
    PinLimitExceeded: _Kind(409, _INVALID, "pin_limit_exceeded"),
    RequestInProgress: _Kind(409, _INVALID, "request_in_progress"),
    StreamStopped: _Kind(409, _INVALID, "stream_deleted"),
    EventsDropped: _Kind(410, _INVALID, "events_dropped"),
    RequestTooLarge: _Kind(413, _INVALID, "request_too_large"),
    FileTooLarge: _Kind(413, _INVALID, "request_too_large"),
    ForeignName: _Kind(421, _INVALID, "foreign_host"),
    QueueFull: _Kind(429, "requests", "rate_limit_exceeded"),
    RateLimited: _Kind(429, "requests", "rate_limit_exceeded"),
    TokensLimited: _Kind(429, "tokens", "rate_limit_exceeded"),
    BudgetSpent: _Kind(429, "insufficient_quota", "insufficient_quota"),
    WaitTooLong: _Kind(429, "requests", "wait_too_long"),
    TooManyWatchers: _Kind(429, "requests", "too_many_watchers"),
    TooManyPulls: _Kind(429, "requests", "too_many_pulls"),
    HeadersTooLarge: _Kind(431, _INVALID, "headers_too_large"),
    RequestFailed: _Kind(500, "server_error", "generation_failed"),
    PullFailed: _Kind(500, "server_error", "pull_failed"),
    StorageFailed: _Kind(500, "server_error", "storage_failed"),
    StorageFull: _Kind(507, "server_error", "insufficient_storage"),
    TooManyConnections: _Kind(503, "server_error", "too_many_connections"),
    EngineUnavailable: _Kind(503, "server_error", "engine_unavailable"),
    ModelNotLoaded: _Kind(503, "server_error", "model_not_loaded"),
    ModelFailed: _Kind(503, "server_error", "model_failed"),
    EngineDied: _Kind(503, "server_error", "engine_died"),
    EngineStopped: _Kind(503, "server_error", "server_stopping"),
    QueueTimeout: _Kind(503, "server_error", "queue_timeout"),
    AnswerTimeout: _Kind(504, "server_error", "timeout"),
    Exception: _Kind(500, "server_error"),
}


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An error as the client receives it. location: keys and indices of `param`, if they are known."""

    status: int
    message: str
    type: str
    param: str | None
    code: str | None
    headers: dict[str, str] = field(default_factory=dict)
    location: tuple[int | str, ...] | None = None

    def error_object(self) -> dict[str, str | None]:
        """Return OpenAI's error object."""
        return {"message": self.message, "type": self.type, "param": self.param, "code": self.code}

    def body(self) -> bytes:
        """Encode the error object, the same for responses and streams."""
        return msgspec.json.encode({"error": self.error_object()})

    def response(self) -> Response:
        return Response(self.body(), self.status, self.headers, media_type="application/json")


def describe_error(error: Exception, request_id: str) -> ErrorReply:
    """Return the reply for an exception. Unexpected exceptions are logged, and their text is not sent."""
    if isinstance(error, HTTPException):
        return _describe_http(error)
    kind = next(ERRORS[base] for base in type(error).__mro__ if base in ERRORS)
    message = str(error)
    if not isinstance(error, HeadraceError):
        logger.error("request %s failed", request_id, exc_info=error)
        message = f"The server failed on this request; its log has the reason under {request_id}"
    param, code, location = kind.param, kind.code, None
    if isinstance(error, InvalidRequest):
        param, code, location = error.param, error.code, error.location
    elif isinstance(error, NotStored):
        param = error.param
    return ErrorReply(kind.status, message, kind.type, param, code, _headers(error), location)


def _headers(error: Exception) -> dict[str, str]:
    match error:
        case WaitTooLong():
            predicted = {TTFT_HEADER: f"{error.expected_s:.3f}"}
            if error.is_for_good:
                return {"x-should-retry": "false", **predicted}
            return {"retry-after": _seconds(error.retry_after_s), **predicted}
        case Shed():
            return {"retry-after": _seconds(error.retry_after_s)}
        case RateLimited():
            return _rate_limit_headers(error)
        case RequestInProgress():
            return {"retry-after": "1"}
        case ModelNotLoaded():
            return {"retry-after": _seconds(error.retry_after_s)}
        case ModelFailed(retry_after_s=None):
            return {"x-should-retry": "false"}
        case ModelFailed(retry_after_s=float(retry_after_s)):
            return {"retry-after": _seconds(retry_after_s)}
        case EngineUnavailable() | TooManyWatchers() | TooManyPulls():
            return {"retry-after": str(UNAVAILABLE_RETRY_S)}
        case TooManyConnections():
            return {"retry-after": str(UNAVAILABLE_RETRY_S), "connection": "close"}
        case StorageFull():
            return {"x-should-retry": "false"}  # only deleting frees space
        case AnswerTimeout():
            return {"x-should-retry": "false"}  # OpenAI's clients would retry a request that its caller has given up
        case InvalidApiKey():
            return {"www-authenticate": "Bearer"}
        case RequestTooLarge() | RequestTimeout() | HeadersTooLarge() | AmbiguousRequest():
            return {"connection": "close"}  # since the rest of the request is not read
    return {}


def _rate_limit_headers(error: RateLimited) -> dict[str, str]:
    """Return retry headers. x-should-retry keeps OpenAI's and Anthropic's clients from retrying a spent budget."""
    headers = {} if error.retry_after_s is None else {"retry-after": _seconds(error.retry_after_s)}
    if error.retry_after_s is None or isinstance(error, BudgetSpent):
        headers["x-should-retry"] = "false"
    return headers


def _seconds(seconds: float) -> str:
    return str(max(1, math.ceil(seconds)))


def _describe_http(error: HTTPException) -> ErrorReply:
    """Return the reply for an HTTPException of the router, whose detail says what was asked for."""
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    return ErrorReply(error.status_code, str(error.detail), _INVALID, None, code, dict(error.headers or {}))
