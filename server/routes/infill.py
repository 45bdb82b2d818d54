"""POST /infill, in llama-server's shape."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from server.generation.generation import Generation
from server.generation.infill import infill_params
from server.http.answer import answer
from server.http.body import Context, json_body
from server.http.preparing import prepared
from server.protocols.infill import InfillFormatter
from server.schemas.infill import InfillRequest

router = APIRouter(tags=["llama-server's"])


@router.post("/infill")
async def create_infill(
    request: Request, context: Context, body: Annotated[InfillRequest, Depends(json_body(InfillRequest))]
) -> Response:
    """Write what belongs between two pieces of code, as a whole or as a stream."""
    params = await prepared(request, context, infill_params(body, context, request.state.arrival_s))
    formatter = InfillFormatter(body, context.model_name)
    generation = Generation(context, params)
    return await answer(request, generation, formatter, stream=bool(body.stream), headers=params.headers)
