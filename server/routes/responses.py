"""POST /v1/responses and /v1/responses/input_tokens."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from server.generation.generation import Generation
from server.http.answer import answer
from server.http.body import Context, json_body
from server.protocols.responses.answer import ResponseFormatter
from server.protocols.responses.params import num_input_tokens, response_params
from server.protocols.responses.request import check_stateless
from server.schemas.responses import InputTokensRequest, ResponsesRequest

router = APIRouter()


@router.post("/v1/responses")
async def create_response(
    request: Request,
    context: Context,
    body: Annotated[ResponsesRequest, Depends(json_body(ResponsesRequest))],
) -> Response:
    """Answer items with items, as a whole or as a stream."""
    check_stateless(body)
    params = await response_params(body, body.input or [], context, request.state.arrival_s)
    formatter = ResponseFormatter(body, params, context.model_name)
    generation = Generation(context, params.generation)
    return await answer(request, generation, formatter, stream=bool(body.stream), headers=params.headers)


@router.post("/v1/responses/input_tokens")
async def count_input_tokens(
    context: Context, body: Annotated[InputTokensRequest, Depends(json_body(InputTokensRequest))]
) -> JSONResponse:
    """Count the tokens of the prompt that a response with these fields would have."""
    check_stateless(body)
    num_tokens, headers = await num_input_tokens(body, body.input or [], context)
    return JSONResponse({"object": "response.input_tokens", "input_tokens": num_tokens}, headers=headers)
