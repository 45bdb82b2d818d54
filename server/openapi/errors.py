"""Errors in the OpenAPI document, from the one table of errors (server/errors.py)."""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from server.errors import ERRORS
from server.openapi.schemas import AnswerSchemas
from server.schemas.errors import AnthropicError, OllamaError, OpenAIError

# Error objects by prefixes of paths, of which the longest applies, as in server/http/error_forms.py.
ERROR_FORMS: Mapping[str, type] = {"/": OpenAIError, "/v1/messages": AnthropicError, "/api/": OllamaError}


def error_answers(errors: Iterable[type[Exception]], path: str, answers: AnswerSchemas) -> dict[str, Any]:
    """Return the errors by status, in the form of the path's protocol."""
    form = ERROR_FORMS[max((prefix for prefix in ERROR_FORMS if path.startswith(prefix)), key=len)]
    content = {"application/json": {"schema": answers.of(form)}}
    listed = set(errors)
    by_status: dict[int, list[type[Exception]]] = {}
    for error in ERRORS:  # in the table's order, each once
        if error in listed:
            by_status.setdefault(ERRORS[error].status, []).append(error)
    return {
        str(status): {"description": _description(status, found), "content": content}
        for status, found in sorted(by_status.items())
    }


def _description(status: int, errors: Iterable[type[Exception]]) -> str:
    """Return the codes and first lines of the errors of one status."""
    found = [
        f"`{ERRORS[error].code}`: {_first_line(error)}" if ERRORS[error].code else _first_line(error)
        for error in errors
        if error is not Exception
    ]
    return " ".join(found) or HTTPStatus(status).phrase


def _first_line(error: type[Exception]) -> str:
    return (error.__doc__ or "").partition("\n")[0]
