"""Errors as OpenAPI describes them, from the one table of errors (server/errors.py)."""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from server.errors import ERRORS
from server.openapi.schemas import AnswerSchemas
from server.schemas.errors import AnthropicError, OllamaError, OpenAIError

# The objects by the beginnings of paths, the longest that fits; as server/http/error_forms.py answers.
ERROR_FORMS: Mapping[str, type] = {"/": OpenAIError, "/v1/messages": AnthropicError, "/api/": OllamaError}


def error_answers(statuses: Iterable[int], path: str, answers: AnswerSchemas) -> dict[str, Any]:
    """By status, in the form of the path's protocol."""
    form = ERROR_FORMS[max((prefix for prefix in ERROR_FORMS if path.startswith(prefix)), key=len)]
    content = {"application/json": {"schema": answers.of(form)}}
    return {str(status): {"description": error_description(status), "content": content} for status in sorted(statuses)}


def error_description(status: int) -> str:
    """What the errors of this status are, with their codes."""
    found = [
        f"`{kind.code}`: {_first_line(error)}" if kind.code else _first_line(error)
        for error, kind in ERRORS.items()
        if kind.status == status and error is not Exception
    ]
    return " ".join(found) or HTTPStatus(status).phrase


def _first_line(error: type[Exception]) -> str:
    return (error.__doc__ or "").partition("\n")[0]
