"""Query parameters, checked as strictly as a body."""

from typing import TypeVar

from fastapi import Request

from engine.errors import InvalidRequest
from server.schemas.base import StrictModel, quote, validate
from server.schemas.parameters import ignored_header

M = TypeVar("M", bound=StrictModel)

_BOOLEANS = {"true": True, "false": False}
_MAX_DIGITS = 12


def query_int(request: Request, name: str, *, least: int = 0, most: int | None = None) -> int | None:
    """Return the query parameter; None if absent. Raises InvalidRequest unless it is a whole number from `least` to
    `most`."""
    given = request.query_params.get(name)
    if given is None:
        return None
    number = int(given) if given.isascii() and given.isdecimal() and len(given) <= _MAX_DIGITS else -1
    if number < least or (most is not None and number > most):
        limits = f", at least {least:,}" if most is None else f" from {least:,} to {most:,}"
        raise InvalidRequest(f"{name} is {quote(given)}; it must be a whole number{limits}", param=name)
    return number


def query_bool(request: Request, name: str) -> bool | None:
    """Return the query parameter; None if absent. Raises InvalidRequest unless it is true or false."""
    given = request.query_params.get(name)
    if given is not None and given.lower() not in _BOOLEANS:
        raise InvalidRequest(f"{name} is {quote(given)}; it must be true or false", param=name)
    return None if given is None else _BOOLEANS[given.lower()]


def page_query(request: Request, model: type[M], *names: str) -> M:
    """Return the query parameters `after`, `limit` and `names`, validated as `model`. Raises InvalidRequest."""
    given: dict[str, object] = {
        name: request.query_params[name] for name in ("after", *names) if name in request.query_params
    }
    if (limit := query_int(request, "limit")) is not None:
        given["limit"] = limit
    return validate(model, given)


def ignored_query(request: Request, *honored: str) -> dict[str, str]:
    """Return the response header that lists the query parameters not in `honored`, each once."""
    return ignored_header([name for name in dict.fromkeys(request.query_params) if name not in honored])
