"""Expected errors, caused by a user, a checkpoint or a client.

A message says what was given, the limit, and the remedy. server/errors.py maps each class to an HTTP status.
"""

import enum
from typing import Self


class HeadraceError(Exception):
    """Base of all expected errors; str(error) is a message for users."""


class InvalidRequest(HeadraceError):
    """A request that can never succeed as sent.

    `param` names the offending field as the client spelled it; `code` is the machine-readable reason, if there is one.
    `location` has the keys and indices that `param` joins, where they are known: keys may have dots and brackets.
    """

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        location: tuple[int | str, ...] | None = None,
    ) -> None:
        super().__init__(message)
        self.param = param
        self.code = code
        self.location = location

    @classmethod
    def of(cls, param: str, reason: str) -> Self:
        """Return the error for the field `param`; the message is the field's path followed by `reason`."""
        return cls(f"{param} {reason}", param=param)


class ContextLengthExceeded(InvalidRequest):
    """The prompt and requested output do not fit the model's context or the KV cache.

    num_tokens: the prompt's tokens, if known. limit: the most tokens of prompt and output together, if known.
    is_at_least: counting stopped early, so the prompt has `num_tokens` or more.
    """

    CODE = "context_length_exceeded"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        num_tokens: int | None = None,
        limit: int | None = None,
        is_at_least: bool = False,
    ) -> None:
        super().__init__(message, param=param, code=self.CODE)
        self.num_tokens = num_tokens
        self.limit = limit
        self.is_at_least = is_at_least


class UnsupportedParameter(InvalidRequest):
    """A known parameter that would change the output, and that is not supported yet."""

    def __init__(self, message: str, *, param: str) -> None:
        super().__init__(message, param=param, code="unsupported_parameter")


class AdapterUnusable(HeadraceError):
    """The files are not a LoRA adapter for this model. The message names the files and is for operators."""


class ShedReason(enum.StrEnum):
    """Reason why a request was refused or dropped before any of its tokens were computed."""

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
    """The estimated time to first token is too long; try again after `retry_after_s`."""

    def __init__(self, message: str, *, retry_after_s: float, expected_s: float, is_for_good: bool) -> None:
        """expected_s: estimated time to first token, from arrival. is_for_good: even an idle server would take too
        long."""
        super().__init__(message, retry_after_s=retry_after_s, reason=ShedReason.TTFT_SLO)
        self.expected_s = expected_s
        self.is_for_good = is_for_good


class EngineUnavailable(HeadraceError):
    """The engine accepts no requests now: it is loading, draining, or has ended."""


class EngineDied(EngineUnavailable):
    """The engine process died while this request was running.

    `num_deaths`: the number of known engine deaths while computing this request.
    """

    def __init__(self, message: str, *, num_deaths: int = 0) -> None:
        super().__init__(message)
        self.num_deaths = num_deaths


class EngineStopped(EngineDied):
    """The server is shutting down and ended this request."""


class RequestFailed(HeadraceError):
    """This request failed inside the engine, for example on logits that are not finite; other requests continue."""


class StartupError(HeadraceError):
    """The server or a command cannot start: a model, an option or a resource is not usable."""


class ModelUnusable(StartupError):
    """The model's files are unsound, or of a kind that is not supported: they will never load as they are."""


class TextUnusable(ModelUnusable):
    """The model's tokenizer or chat template cannot be used. The message names no files, so that clients may see it."""


class NotEnoughMemory(StartupError):
    """Training needs more memory than is free; the message has the arithmetic."""


class OptionError(StartupError):
    """An option does not exist, or its value is not usable; the command line exits with 2."""
