"""Parameters of a URL's query, checked as strictly as a body."""

from collections.abc import Collection
from typing import TypeVar

from fastapi import Request

from engine.errors import InvalidRequest
from server.schemas.base import StrictModel, quote, validate
from server.schemas.conversations import ListQuery

M = TypeVar("M", bound=StrictModel)

_BOOLEANS = {"true": True, "false": False}
_MAX_DIGITS = 12


def query_int(request: Request, name: str) -> int | None:
    """Return the value of a parameter. Raises InvalidRequest unless it is a whole number of at least 0."""
    given = request.query_params.get(name)
    if given is None:
        return None
    if not (given.isascii() and given.isdecimal() and len(given) <= _MAX_DIGITS):
        raise InvalidRequest(f"{name} is {quote(given)}; it must be a whole number, at least 0", param=name)
    return int(given)


def query_bool(request: Request, name: str) -> bool | None:
    """Return the value of a parameter. Raises InvalidRequest unless it is true or false."""
    given = request.query_params.get(name)
    if given is not None and given.lower() not in _BOOLEANS:
        raise InvalidRequest(f"{name} is {quote(given)}; it must be true or false", param=name)
    return None if given is None else _BOOLEANS[given.lower()]


def list_query(request: Request) -> ListQuery:
    """Return `after`, `order` and `limit`. Raises InvalidRequest."""
    given = {name: request.query_params[name] for name in ("after", "order") if name in request.query_params}
    limit = query_int(request, "limit")
    return validate(ListQuery, given if limit is None else {**given, "limit": limit})


def page_query(request: Request, model: type[M]) -> M:
    """Return `after` and `limit` as `model`. Raises InvalidRequest."""
    given: dict[str, object] = {"after": request.query_params["after"]} if "after" in request.query_params else {}
    if (limit := query_int(request, "limit")) is not None:
        given["limit"] = limit
    return validate(model, given)


def unhonored_names(request: Request, honored: Collection[str]) -> list[str]:
    """Return the names of parameters that are given and not honored, each once."""
    return [name for name in dict.fromkeys(request.query_params) if name not in honored]
