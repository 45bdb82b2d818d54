"""Parts of responses that operations share in the OpenAPI document: errors by status, and rate headers."""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from server.errors import ERRORS
from server.openapi.schemas import AnswerSchemas
from server.protocols.path_forms import form_of

# Headers of a key's rate limits.
RATE_HEADERS: Mapping[str, Mapping[str, Any]] = {
    name: {"description": description, "schema": {"type": "string"}}
    for kind in ("requests", "tokens")
    for name, description in (
        (f"x-ratelimit-limit-{kind}", f"Of a key with such a limit: {kind} that it may have in a minute."),
        (f"x-ratelimit-remaining-{kind}", f"The same: {kind} that it may have now."),
        (f"x-ratelimit-reset-{kind}", "The same: how long until it may have all again, such as 6m0s or 28ms."),
        (f"anthropic-ratelimit-{kind}-limit", f"Of a key with such a limit: {kind} that it may have in a minute."),
        (f"anthropic-ratelimit-{kind}-remaining", f"The same: {kind} that it may have now."),
        (f"anthropic-ratelimit-{kind}-reset", "The same: when it may have all again, in RFC 3339."),
    )
}


def error_answers(errors: Iterable[type[Exception]], path: str, answers: AnswerSchemas) -> dict[str, Any]:
    """Return the error responses by status, in the format of the path's API."""
    form = form_of(path)
    content = {"application/json": {"schema": answers.of(form.error_object)}}
    listed = set(errors)
    by_status: dict[int, list[type[Exception]]] = {}
    for error in ERRORS:  # in the table's order, each once
        if error in listed:
            by_status.setdefault(form.status_of(ERRORS[error].status), []).append(error)
    return {
        str(status): {"description": _description(status, found), "content": content}
        for status, found in sorted(by_status.items())
    }


def _description(status: int, errors: Iterable[type[Exception]]) -> str:
    """Return the description of a status: the code and the first docstring line of each of its errors."""
    found = [
        f"`{ERRORS[error].code}`: {_first_line(error)}" if ERRORS[error].code else _first_line(error)
        for error in errors
        if error is not Exception
    ]
    return " ".join(found) or HTTPStatus(status).phrase


def _first_line(error: type[Exception]) -> str:
    return (error.__doc__ or "").partition("\n")[0]


def rate_header_references(path: str) -> dict[str, Any]:
    """Return references to the rate headers that the path's API uses."""
    prefix = "anthropic-" if form_of(path).has_anthropic_headers else "x-"
    return {name: {"$ref": f"#/components/headers/{name}"} for name in RATE_HEADERS if name.startswith(prefix)}
