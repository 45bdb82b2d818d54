"""Lines of a batch's output: an answer, or why there is none, in OpenAI's forms."""

import secrets
from dataclasses import dataclass, field

import msgspec

BATCH_EXPIRED, BATCH_CANCELLED, REQUEST_TIMEOUT = "batch_expired", "batch_cancelled", "request_timeout"

_TIMED_OUT = 504


class LineUsage(msgspec.Struct):
    """Tokens that answers used, added up."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def add(self, other: "LineUsage") -> None:
        self.input_tokens += other.input_tokens
        self.cached_tokens += other.cached_tokens
        self.output_tokens += other.output_tokens
        self.reasoning_tokens += other.reasoning_tokens


@dataclass(frozen=True, slots=True)
class LineAnswer:
    """What HTTP would have answered. body: JSON. headers: those that depend on the request."""

    request_id: str
    status_code: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def is_completed(self) -> bool:
        """Whether it belongs into the output, and not among the errors."""
        return self.status_code < 400

    @property
    def usage(self) -> LineUsage:
        """As the answer tells it, in whichever protocol's words; nothing for an error."""
        return _read_usage(self.body) if self.is_completed else LineUsage()


class LineError(msgspec.Struct, frozen=True):
    """Why a line has no answer."""

    code: str
    message: str


class OutputResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    """OpenAI's has no headers; ours has them where there are some."""

    status_code: int
    request_id: str
    body: msgspec.Raw
    headers: dict[str, str] = {}


class OutputLine(msgspec.Struct, frozen=True):
    """One line of an output or error file."""

    id: str
    custom_id: str
    response: OutputResponse | None
    error: LineError | None


def answer_line(custom_id: str, answer: LineAnswer) -> bytes:
    """The line of an answer, its end included."""
    if answer.status_code == _TIMED_OUT:
        return error_line(custom_id, REQUEST_TIMEOUT, "the request's timeout was over before its answer began")
    response = OutputResponse(answer.status_code, answer.request_id, msgspec.Raw(answer.body), answer.headers)
    return _encode(OutputLine(_new_id(), custom_id, response, None))


def error_line(custom_id: str, code: str, message: str) -> bytes:
    """The line of a request without an answer, its end included."""
    return _encode(OutputLine(_new_id(), custom_id, None, LineError(code, message)))


def _encode(line: OutputLine) -> bytes:
    return msgspec.json.encode(line) + b"\n"


def _new_id() -> str:
    return f"batch_req_{secrets.token_hex(24)}"


# --- usage -----------------------------------------------------------------------------------------------------------


class _Cached(msgspec.Struct):
    cached_tokens: int | None = None


class _Reasoning(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    """Chats, completions and embeddings call tokens prompt and completion, responses input and output."""

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


def _read_usage(body: bytes) -> LineUsage:
    usage = _decode_answer(body).usage
    if usage is None:
        return LineUsage()
    cached = usage.prompt_tokens_details or usage.input_tokens_details or _Cached()
    reasoning = usage.completion_tokens_details or usage.output_tokens_details or _Reasoning()
    return LineUsage(
        input_tokens=usage.prompt_tokens or usage.input_tokens or 0,
        cached_tokens=cached.cached_tokens or 0,
        output_tokens=usage.completion_tokens or usage.output_tokens or 0,
        reasoning_tokens=reasoning.reasoning_tokens or 0,
    )
