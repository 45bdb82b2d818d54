"""POST /infill, in llama-server's shape."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from server.generation.early_checks import check_infill
from server.generation.generation import Generation
from server.generation.infill import infill_params
from server.http.answer import answer
from server.http.body import json_body
from server.http.models import asked_model
from server.http.preparing import prepared
from server.protocols.infill import InfillFormatter
from server.schemas.infill import InfillRequest
from server.served.model import ServedModel

router = APIRouter(tags=["llama-server's"])


async def _check(_request: Request, body: InfillRequest, model: ServedModel) -> None:
    check_infill(body, model)


@router.post("/infill")
async def create_infill(
    request: Request,
    body: Annotated[InfillRequest, Depends(json_body(InfillRequest))],
    model: Annotated[ServedModel, Depends(asked_model(InfillRequest, _check))],
) -> Response:
    """Fill in the code between two pieces of code, as a whole or as a stream."""
    params = await prepared(request, model, infill_params(body, model, request.state.arrival_s))
    formatter = InfillFormatter(body, model.name)
    generation = Generation(model, params)
    return await answer(request, generation, formatter, stream=bool(body.stream), headers=params.headers)
