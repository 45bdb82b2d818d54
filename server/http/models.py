"""Which model a request is for: a dependency that every route with a `model` in its body has."""

from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

from fastapi import Depends, Request

from server.http.body import Context, json_body
from server.http.disconnect import until_disconnect
from server.metrics.request_record import current_record
from server.schemas.base import StrictModel
from server.served.model import ServedModel

B = TypeVar("B", bound=StrictModel)


def asked_model(body_type: type[B]) -> Callable[..., Awaitable[ServedModel]]:
    """A dependency: the served model that a body of this type names. It raises ModelNotFound, and as `entered`
    and json_body."""

    async def find(
        request: Request, context: Context, body: Annotated[B, Depends(json_body(body_type))]
    ) -> ServedModel:
        return await entered(request, context.models.find(body.model))  # type: ignore[attr-defined]

    return find


async def entered(request: Request, model: ServedModel) -> ServedModel:
    """The model, which is loaded and stays so until the request is over. Logs and usage say that it is for this one.

    Raises ClientGone, QueueFull, ModelNotLoaded and EngineUnavailable.
    """
    record = current_record()
    if record is not None:
        record.model_name = model.name
    if model.residence is not None:
        await until_disconnect(model.enter(record), request.receive)
    return model
