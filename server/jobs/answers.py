"""BodyAnswer: the response to a request body that did not come over HTTP, such as a batch line, and its token usage."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec


class AnswerUsage(msgspec.Struct):
    """Token counts of one answer, or summed over several."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def add(self, other: "AnswerUsage") -> None:
        self.input_tokens += other.input_tokens
        self.cached_tokens += other.cached_tokens
        self.output_tokens += other.output_tokens
        self.reasoning_tokens += other.reasoning_tokens


@dataclass(frozen=True, slots=True)
class BodyAnswer:
    """The response that an HTTP client would have received. body: JSON. headers: those specific to the request."""

    request_id: str
    status_code: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def is_completed(self) -> bool:
        """Whether the response is not an error."""
        return self.status_code < 400

    @property
    def usage(self) -> AnswerUsage:
        """Token counts from the response's `usage`, whatever API's field names it has; zeros for an error."""
        return _read_usage(self.body) if self.is_completed else AnswerUsage()


# Answers bodies of requests to the endpoint of a path, in their order.
AnswerBodies = Callable[[str, Sequence[dict[str, Any]]], Awaitable[list[BodyAnswer]]]


class _Cached(msgspec.Struct):
    cached_tokens: int | None = None


class _Reasoning(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    """Usage in any API: most APIs count prompt and completion tokens, responses count input and output tokens."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    prompt_tokens_details: _Cached | None = None
    input_tokens_details: _Cached | None = None
    completion_tokens_details: _Reasoning | None = None
    output_tokens_details: _Reasoning | None = None


class _Answer(msgspec.Struct):
    usage: _Usage | None = None


_decode_answer = msgspec.json.Decoder(_Answer).decode


def _read_usage(body: bytes) -> AnswerUsage:
    """Return the usage of an answer; none for a body that has none or is not an answer, as other servers may send."""
    try:
        usage = _decode_answer(body).usage
    except msgspec.DecodeError:
        usage = None
    if usage is None:
        return AnswerUsage()
    cached = usage.prompt_tokens_details or usage.input_tokens_details or _Cached()
    reasoning = usage.completion_tokens_details or usage.output_tokens_details or _Reasoning()
    return AnswerUsage(
        input_tokens=max(0, usage.prompt_tokens or usage.input_tokens or 0),
        cached_tokens=max(0, cached.cached_tokens or 0),
        output_tokens=max(0, usage.completion_tokens or usage.output_tokens or 0),
        reasoning_tokens=max(0, reasoning.reasoning_tokens or 0),
    )
