"""POST /v1/responses and /v1/responses/input_tokens."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from server.generation.checks import check_request
from server.generation.generation import Generation
from server.generation.params import chat_params
from server.generation.prompts import chat_prompt
from server.http.answer import answer
from server.http.body import Context, json_body
from server.protocols.field_names import client_names, client_path
from server.protocols.responses.answer import ResponseFormatter
from server.protocols.responses.request import ChatRequest, chat_request, check_stateless
from server.schemas.parameters import ignored_header
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
    translated = chat_request(body, body.input or [])
    with client_names(translated.names):
        params = await chat_params(translated.chat, context, request.state.arrival_s)
    formatter = ResponseFormatter(body, translated, params, context.model_name)
    headers = {**params.headers, **_ignored(translated, params.ignored)}
    generation = Generation(context, params)
    return await answer(request, generation, formatter, stream=bool(body.stream), headers=headers)


@router.post("/v1/responses/input_tokens")
async def count_input_tokens(
    context: Context, body: Annotated[InputTokensRequest, Depends(json_body(InputTokensRequest))]
) -> JSONResponse:
    """Count the tokens of the prompt that a response with these fields would have."""
    check_stateless(body)
    translated = chat_request(body, body.input or [])
    with client_names(translated.names):
        ignored = check_request(translated.chat, context)
        text_model = await context.text_model()
        prepared = await chat_prompt(translated.chat, text_model, context.client.info)
    headers = _ignored(translated, [*ignored, *prepared.plan.ignored])
    count = len(prepared.prompt.ids)
    return JSONResponse({"object": "response.input_tokens", "input_tokens": count}, headers=headers)


def _ignored(translated: ChatRequest, of_chat: list[str]) -> dict[str, str]:
    """The header that lists what is not honored, in the client's names."""
    return ignored_header([*translated.ignored, *(client_path(translated.names, path) for path in of_chat)])
