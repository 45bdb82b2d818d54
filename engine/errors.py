"""Errors that a user, a checkpoint or a client can cause.

A message says what was given, the limit, and the remedy. server/errors.py maps each class to an HTTP status once.
"""

import enum
from typing import Self


class HeadraceError(Exception):
    """Base of all expected errors; str(error) is a message for users."""


class InvalidRequest(HeadraceError):
    """A request that can never succeed as sent.

    `param` names the offending field as the client spelled it; `code` is the machine-readable reason, if there is one.
    """

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code

    @classmethod
    def of(cls, param: str, reason: str) -> Self:
        """Return the error of one field, whose message is the field's path followed by the reason."""
        return cls(f"{param} {reason}", param=param)


class ContextLengthExceeded(InvalidRequest):
    """Prompt and requested output do not fit the model's context or the KV cache.

    `num_tokens` are the prompt's, and `limit` is for prompt and output together, if they are known. A prompt that is
    far too long is not counted to its end: then `is_at_least` is set, and the prompt has `num_tokens` or more.
    """

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        num_tokens: int | None = None,
        limit: int | None = None,
        is_at_least: bool = False,
    ) -> None:
        super().__init__(message, param=param, code="context_length_exceeded")
        self.num_tokens = num_tokens
        self.limit = limit
        self.is_at_least = is_at_least


class UnsupportedParameter(InvalidRequest):
    """A known parameter that would change the answer and is not supported yet."""

    def __init__(self, message: str, *, param: str) -> None:
        super().__init__(message, param=param, code="unsupported_parameter")


class AdapterUnusable(HeadraceError):
    """The files are not an adapter, or not one for this model; the message names them and is for operators."""


class ShedReason(enum.StrEnum):
    """Why a request was refused or ended before anything was computed for it."""

    WAITING_REQUESTS = "waiting_requests"  # --max-num-waiting
    WAITING_TOKENS = "waiting_tokens"  # --max-num-waiting-tokens
    QUEUE_TIMEOUT = "queue_timeout"  # --queue-timeout
    TTFT_SLO = "ttft_slo"  # --ttft-slo


class Shed(HeadraceError):
    """The server is too busy for this request; try again after `retry_after_s`."""

    def __init__(self, message: str, *, retry_after_s: float, reason: ShedReason) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.reason = reason


class QueueFull(Shed):
    """The waiting queue is full; try again after `retry_after_s`."""

    def __init__(self, message: str, *, retry_after_s: float, reason: ShedReason = ShedReason.WAITING_REQUESTS) -> None:
        super().__init__(message, retry_after_s=retry_after_s, reason=reason)


class QueueTimeout(Shed):
    """The request waited too long in the queue; try again after `retry_after_s`."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message, retry_after_s=retry_after_s, reason=ShedReason.QUEUE_TIMEOUT)


class WaitTooLong(Shed):
    """The first token would come too late; try again after `retry_after_s`."""

    def __init__(self, message: str, *, retry_after_s: float, expected_s: float, is_for_good: bool) -> None:
        """expected_s: from the request's arrival to its first token. is_for_good: even an idle server would be too
        slow."""
        super().__init__(message, retry_after_s=retry_after_s, reason=ShedReason.TTFT_SLO)
        self.expected_s = expected_s
        self.is_for_good = is_for_good


class EngineUnavailable(HeadraceError):
    """The engine accepts no requests now: it is loading, draining, or has ended."""


class EngineDied(EngineUnavailable):
    """The engine process ended before this request did.

    `num_deaths`: known number of engines that were computing the request when they ended.
    """

    def __init__(self, message: str, *, num_deaths: int = 0) -> None:
        super().__init__(message)
        self.num_deaths = num_deaths


class EngineStopped(EngineDied):
    """The server is stopping, and has ended this request."""


class RequestFailed(HeadraceError):
    """The engine could not complete this request, for example because its logits were not finite; others continue."""


class StartupError(HeadraceError):
    """The server or a command cannot start: a model, an option or a resource is not usable."""


class NotEnoughMemory(StartupError):
    """Training needs more memory than is free; the message has the arithmetic."""


class OptionError(StartupError):
    """An option does not exist, or its value is not usable; the command line exits with 2."""
