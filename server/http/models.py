"""Which model a request is for: a dependency that every route with a `model` in its body has."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Protocol, TypeVar

from fastapi import Depends

from server.http.body import Context, json_body
from server.metrics.request_record import current_record
from server.schemas.base import StrictModel
from server.served.model import ServedModel


class _Names(Protocol):
    @property
    def model(self) -> str | None: ...


class _NamingBody(StrictModel):
    model: str | None = None


B = TypeVar("B", bound=StrictModel)


def asked_model(body_type: type[B]) -> Callable[..., Awaitable[ServedModel]]:
    """A dependency: the served model that a body of this type names. It raises ModelNotFound, and as json_body."""

    async def find(context: Context, body: Annotated[B, Depends(json_body(body_type))]) -> ServedModel:
        return note_model(context.models.find(body.model))  # type: ignore[attr-defined]

    return find


def note_model(model: ServedModel) -> ServedModel:
    """The model, of which logs and usage say from now on that the request is for it."""
    if (record := current_record()) is not None:
        record.model_name = model.name
    return model
