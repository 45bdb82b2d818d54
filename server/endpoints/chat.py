"""POST /v1/chat/completions."""

from server.endpoints.binding.endpoint import Capability, Endpoint, EndpointRequest
from server.endpoints.binding.work import GenerationWork
from server.generation.chat_params import chat_params
from server.generation.early_checks import check_chat
from server.generation.tool_results import check_results
from server.openapi.operation import EVENTS, JSON
from server.protocols.chat import ChatFormatter
from server.protocols.frame import openai_loading_error
from server.schemas.answers import ChatChunk, ChatCompletion
from server.schemas.chat import ChatCompletionRequest


async def _check(body: ChatCompletionRequest, request: EndpointRequest) -> None:
    check_results(body.messages)
    check_chat(body, request.model)


async def _prepare(body: ChatCompletionRequest, request: EndpointRequest) -> GenerationWork:
    check_results(body.messages)
    async with request.preparing():
        params = await chat_params(body, request.model, request.arrival_s)
    return GenerationWork(
        model=request.model,
        params=params,
        formatter=ChatFormatter(body, request.model.name, params.tokenizer),
        headers=params.headers,
        is_stream=bool(body.stream),
        is_resumable=bool(body.resumable),
    )


CHAT = Endpoint(
    path="/v1/chat/completions",
    name="create_chat_completion",
    summary="Answer a conversation, as a whole or as a stream.",
    tag="Chats and completions",
    bodies=(ChatCompletionRequest,),
    capability=Capability.GENERATES,
    check=_check,
    prepare=_prepare,
    answers={JSON: ChatCompletion, EVENTS: ChatChunk},
    example={
        "messages": [{"role": "user", "content": "Why is the sky blue?"}],
        "max_completion_tokens": 64,
        "temperature": 0.7,
    },
    loading_error=openai_loading_error,
    is_batchable=True,
    is_resumable=True,
    has_end_mark=True,
    has_constraints=True,
)
ENDPOINTS = (CHAT,)
