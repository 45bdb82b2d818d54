"""Lines of a batch's output and error files, in OpenAI's format."""

import secrets

import msgspec

from server.jobs.answers import BodyAnswer

BATCH_EXPIRED, BATCH_CANCELLED, REQUEST_TIMEOUT = "batch_expired", "batch_cancelled", "request_timeout"

_TIMED_OUT = 504


class LineError(msgspec.Struct, frozen=True):
    """The reason why a line has no answer."""

    code: str
    message: str


class OutputResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    """A response within a line. OpenAI's has no headers; ours has them if there are any."""

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


def answer_line(custom_id: str, answer: BodyAnswer) -> bytes:
    """Return the line of an answer, with its newline."""
    if answer.status_code == _TIMED_OUT:
        return error_line(custom_id, REQUEST_TIMEOUT, "the request's timeout was over before its answer began")
    response = OutputResponse(answer.status_code, answer.request_id, msgspec.Raw(answer.body), answer.headers)
    return _line(custom_id, response, None)


def error_line(custom_id: str, code: str, message: str) -> bytes:
    """Return the line of a request without an answer, with its newline."""
    return _line(custom_id, None, LineError(code, message))


def _line(custom_id: str, response: OutputResponse | None, error: LineError | None) -> bytes:
    line = OutputLine(f"batch_req_{secrets.token_hex(24)}", custom_id, response, error)
    return msgspec.json.encode(line) + b"\n"
