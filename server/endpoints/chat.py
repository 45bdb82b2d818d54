"""POST /v1/chat/completions."""

from collections.abc import Sequence
from functools import partial

from engine.errors import InvalidRequest
from server.chat.openai_fields import request_of
from server.chat.request import ChatRequest
from server.endpoints.binding.endpoint import Capability, Endpoint, EndpointRequest
from server.endpoints.binding.work import GenerationWork
from server.generation.params.chat import chat_params, check_chat
from server.openapi.operation import EVENTS, JSON
from server.protocols.chat import ChatFormatter
from server.protocols.frame import openai_loading_error
from server.schemas.answers import ChatChunk, ChatCompletion
from server.schemas.base import quote
from server.schemas.chat import ChatCompletionRequest, Message
from server.text.workers import ITEM_SIZE

_MAX_NAMED = 4  # ids of calls in an error


async def _check(body: ChatCompletionRequest, request: EndpointRequest) -> None:
    check_results(body.messages)
    check_chat(await _request(body, request), request.model)


async def _prepare(body: ChatCompletionRequest, request: EndpointRequest) -> GenerationWork:
    check_results(body.messages)
    async with request.preparing():
        params = await chat_params(await _request(body, request), request.model, request.arrival_s)
    formatter = ChatFormatter(body, request.model, params.tokenizer)
    return GenerationWork(
        request.model, params, formatter, is_stream=bool(body.stream), is_resumable=bool(body.resumable)
    )


async def _request(body: ChatCompletionRequest, request: EndpointRequest) -> ChatRequest:
    return await request.model.workers.run_unless_short(partial(request_of, body), size=ITEM_SIZE * len(body.messages))


def check_results(messages: Sequence[Message]) -> None:
    """Raise InvalidRequest for a tool result without an id, or one that follows tool calls but answers none of them.

    Unlike OpenAI's API, this accepts a result whose call is missing, unless it follows other calls: agents that
    truncate a long conversation may keep a result and drop its call.
    """
    known: set[str] = set()
    calls: list[str] = []  # calls that results may answer now; empty if one of them has no id
    for index, message in enumerate(messages):
        if message.role == "assistant":
            ids = [call.id for call in message.tool_calls or []]
            calls = [call_id for call_id in ids if call_id] if all(ids) else []
            known.update(call_id for call_id in ids if call_id)
        elif message.role == "tool":
            _check_result(message.tool_call_id, f"messages[{index}].tool_call_id", known, calls)
        else:
            calls = []


def _check_result(call_id: str | None, path: str, known: set[str], calls: Sequence[str]) -> None:
    if not call_id:
        fault = "missing" if call_id is None else "empty"
        raise InvalidRequest(f"{path} is {fault}; a message of role tool must give the id of its call", param=path)
    if calls and call_id not in known:
        named = ", ".join(quote(each) for each in calls[:_MAX_NAMED]) + (", ..." if len(calls) > _MAX_NAMED else "")
        raise InvalidRequest(
            f"{path} is {quote(call_id)}, and the calls that it follows are {named}; give the id of one of them",
            param=path,
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
