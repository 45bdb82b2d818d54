"""Lines of a batch's output and error files, in OpenAI's format."""

import secrets

import msgspec

from server.jobs.answers import BodyAnswer

BATCH_EXPIRED, BATCH_CANCELLED, REQUEST_TIMEOUT = "batch_expired", "batch_cancelled", "request_timeout"

_TIMED_OUT = 504


class LineError(msgspec.Struct, frozen=True):
    """The error of a line that was not run."""

    code: str
    message: str


class OutputResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    """The response in an output line. `headers`, an addition to OpenAI's format, is left out if empty."""

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
    """Return the output line for a response, with its newline."""
    if answer.status_code == _TIMED_OUT:
        return error_line(custom_id, REQUEST_TIMEOUT, "the request's timeout was over before its answer began")
    response = OutputResponse(answer.status_code, answer.request_id, msgspec.Raw(answer.body), answer.headers)
    return _line(custom_id, response, None)


def error_line(custom_id: str, code: str, message: str) -> bytes:
    """Return the error line for a request that was not run, with its newline."""
    return _line(custom_id, None, LineError(code, message))


def _line(custom_id: str, response: OutputResponse | None, error: LineError | None) -> bytes:
    line = OutputLine(f"batch_req_{secrets.token_hex(24)}", custom_id, response, error)
    return msgspec.json.encode(line) + b"\n"
