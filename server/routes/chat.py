"""POST /v1/chat/completions."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from server.generation.generation import Generation
from server.generation.params import chat_params
from server.http.answer import answer
from server.http.body import Context, json_body
from server.http.preparing import prepared
from server.http.resume import resumable, resumed_by_header
from server.protocols.chat import ChatFormatter
from server.schemas.chat import ChatCompletionRequest

router = APIRouter(tags=["Chats and completions"])


@router.post("/v1/chat/completions")
async def create_chat_completion(
    request: Request,
    context: Context,
    body: Annotated[ChatCompletionRequest, Depends(json_body(ChatCompletionRequest))],
) -> Response:
    """Answer a conversation, as a whole or as a stream."""
    if body.resumable and (stream := resumed_by_header(request)) is not None:
        return stream
    params = await prepared(request, context, chat_params(body, context, request.state.arrival_s))
    formatter = ChatFormatter(body, context.model_name, params.tokenizer)
    generation = Generation(context, params)
    if body.resumable:
        return await resumable(request, generation, formatter, params.headers)
    return await answer(request, generation, formatter, stream=bool(body.stream), headers=params.headers)
