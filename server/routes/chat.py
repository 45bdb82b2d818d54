"""POST /v1/chat/completions."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from server.generation.chat_params import chat_params
from server.generation.early_checks import check_chat
from server.generation.generation import Generation
from server.generation.tool_results import check_results
from server.http.answer import answer
from server.http.body import json_body
from server.http.models import asked_model
from server.http.preparing import prepared
from server.http.resume import resumable, resumed_by_header
from server.protocols.chat import ChatFormatter
from server.schemas.chat import ChatCompletionRequest
from server.served.model import ServedModel

router = APIRouter(tags=["Chats and completions"])


async def _check(_request: Request, body: ChatCompletionRequest, model: ServedModel) -> None:
    check_results(body.messages)
    check_chat(body, model)


@router.post("/v1/chat/completions")
async def create_chat_completion(
    request: Request,
    body: Annotated[ChatCompletionRequest, Depends(json_body(ChatCompletionRequest))],
    model: Annotated[ServedModel, Depends(asked_model(ChatCompletionRequest, _check))],
) -> Response:
    """Answer a conversation, as a whole or as a stream."""
    if body.resumable and (stream := resumed_by_header(request)) is not None:
        return stream
    check_results(body.messages)
    params = await prepared(request, model, chat_params(body, model, request.state.arrival_s))
    formatter = ChatFormatter(body, model.name, params.tokenizer)
    generation = Generation(model, params)
    if body.resumable:
        return await resumable(request, generation, formatter, params.headers)
    return await answer(request, generation, formatter, stream=bool(body.stream), headers=params.headers)
