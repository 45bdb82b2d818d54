"""POST /v1/responses and /v1/responses/input_tokens."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from engine.errors import InvalidRequest
from server.generation.generation import Generation
from server.http.answer import answer
from server.http.body import Context, json_body
from server.http.disconnect import until_disconnect
from server.http.models import asked_model
from server.http.preparing import prepared
from server.http.resume import resumable, resumed_by_header, stream_run
from server.protocols.responses.params import check_response, num_input_tokens, response_params
from server.schemas.responses import InputTokensRequest, PromptFields, ResponsesRequest
from server.served.model import ServedModel
from server.state.background import start_background
from server.state.history import prompt_items
from server.state.keeping import kept_response

router = APIRouter(tags=["Responses"])


async def _check(request: Request, body: PromptFields, model: ServedModel) -> None:
    _check_storing(body)
    prompt = await prompt_items(body, request.app.state.context.store, request.state.owner)
    await check_response(body, prompt.items, model, num_stored=prompt.num_stored)


def _check_storing(body: PromptFields) -> None:
    if isinstance(body, ResponsesRequest) and body.background and body.store is False:
        raise InvalidRequest("background is true and store is false; a background response is stored", param="store")


@router.post("/v1/responses")
async def create_response(
    request: Request,
    context: Context,
    body: Annotated[ResponsesRequest, Depends(json_body(ResponsesRequest))],
    model: Annotated[ServedModel, Depends(asked_model(ResponsesRequest, _check))],
) -> Response:
    """Answer items with items, as a whole, as a stream, or in the background."""
    if body.resumable and (stream := resumed_by_header(request)) is not None:
        return stream
    _check_storing(body)
    owner = request.state.owner
    prompt = await prompt_items(body, context.store, owner)
    arrival_s = request.state.arrival_s
    asking = response_params(body, prompt.items, model, arrival_s, num_stored=prompt.num_stored)
    params = await prepared(request, model, asking)
    kept = kept_response(
        body,
        params,
        prompt,
        model,
        context,
        owner=owner,
        request_id=request.state.request_id,
        is_stored=body.store is not False,
    )
    generation = Generation(model, params.generation)
    if body.resumable:
        return await resumable(request, generation, kept, params.headers)
    if not body.background:
        return await answer(request, generation, kept, stream=bool(body.stream), headers=params.headers)
    run = await start_background(request, context, generation, kept, params.headers)
    if body.stream:
        return stream_run(request, run, after=0, with_ids=False)
    return Response(msgspec.json.encode(kept.response), headers=params.headers, media_type="application/json")


@router.post("/v1/responses/input_tokens")
async def count_input_tokens(
    request: Request,
    context: Context,
    body: Annotated[InputTokensRequest, Depends(json_body(InputTokensRequest))],
    model: Annotated[ServedModel, Depends(asked_model(InputTokensRequest, _check))],
) -> JSONResponse:
    """Count the tokens of the prompt that a response with these fields would have."""
    prompt = await prompt_items(body, context.store, request.state.owner)
    num_tokens, headers = await until_disconnect(
        num_input_tokens(body, prompt.items, model, num_stored=prompt.num_stored), request.receive
    )
    return JSONResponse({"object": "response.input_tokens", "input_tokens": num_tokens}, headers=headers)
