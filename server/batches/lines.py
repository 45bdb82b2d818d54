"""Parser of the lines of a batch's input file, with an error for each kind of invalid line."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import InvalidRequest
from server.schemas.base import quote
from server.schemas.batch_answers import LineFault
from server.schemas.strict_json import parse_json

MAX_CUSTOM_ID = 512  # characters

_METHOD = "POST"


class FaultyLine(Exception):
    """An invalid input line, with the LineFault to report."""

    def __init__(self, fault: LineFault) -> None:
        super().__init__(fault.message)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Line:
    """One request of a batch, `number` counted from 1."""

    number: int
    custom_id: str
    url: str
    body: dict[str, Any]


def read_line(data: bytes, number: int, endpoints: Sequence[str]) -> Line:
    """Parse an input line, whose `url` must be one of `endpoints`. Raises FaultyLine for another endpoint or invalid
    fields.

    The body is not validated against the endpoint's schema: an invalid body gets an error response, as over HTTP.
    """

    def faulty(code: str, message: str, param: str | None = None) -> FaultyLine:
        return FaultyLine(LineFault(code, message, number, param))

    try:
        value = parse_json(data, "this line")
    except InvalidRequest as error:
        raise faulty("invalid_json_line", str(error)) from None
    if not isinstance(value, dict):
        raise faulty("invalid_json_line", f"this line is {quote(value)}; it must be a JSON object")
    for name, kind, what in _MEMBERS:
        if name not in value:
            raise faulty("missing_required_parameter", f"{name} is missing; it is required", name)
        if not isinstance(value[name], kind):
            raise faulty("invalid_type", f"{name} is {quote(value[name])}; it must be {what}", name)
    custom_id = value["custom_id"]
    if not 0 < len(custom_id) <= MAX_CUSTOM_ID:
        message = f"custom_id has {len(custom_id)} characters; it must have 1 to {MAX_CUSTOM_ID}"
        raise faulty("invalid_custom_id", message, "custom_id")
    if value["method"] != _METHOD:
        raise faulty("invalid_method", f"method is {quote(value['method'])}; it must be {_METHOD!r}", "method")
    if value["url"] not in endpoints:
        allowed = f"the batch's endpoint, {endpoints[0]!r}" if len(endpoints) == 1 else f"one of {', '.join(endpoints)}"
        raise faulty("url_mismatch", f"url is {quote(value['url'])}; it must be {allowed}", "url")
    if value["body"].get("stream"):
        raise faulty("invalid_value", "stream is true; leave it out, since a batch does not stream", "body.stream")
    return Line(number, custom_id, value["url"], value["body"])


_MEMBERS: tuple[tuple[str, type, str], ...] = (
    ("custom_id", str, "a string"),
    ("method", str, "a string"),
    ("url", str, "a string"),
    ("body", dict, "an object"),
)
