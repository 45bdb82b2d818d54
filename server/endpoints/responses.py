"""POST /v1/responses and /v1/responses/input_tokens, for OpenAI's clients."""

from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.responses import Response

from engine.errors import InvalidRequest
from server.config.server import ServerConfig
from server.context import ServerContext
from server.endpoints.binding.endpoint import Capability, Endpoint, EndpointRequest
from server.endpoints.binding.work import FinishedWork, GenerationWork, Work
from server.errors import needs_one_server
from server.generation.generation import Generation
from server.generation.params.generation_params import GenerationParams
from server.http.body import json_response
from server.http.resume import stream_run
from server.openapi.operation import EVENTS, JSON, STORED_ERRORS
from server.protocols.responses.events import StreamEvent, responses_loading_error
from server.protocols.responses.objects import Response as ResponseObject
from server.protocols.responses.params import check_response, num_input_tokens, response_params
from server.schemas.plain_answers import ResponseInputTokens
from server.schemas.responses import InputTokensRequest, PromptFields, ResponsesRequest
from server.served.model import ServedModel
from server.state.background import start_background
from server.state.history import prompt_items
from server.state.keeping import KeptResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class BackgroundWork:
    """A response that is generated in the background, independent of any connection."""

    context: ServerContext
    model: ServedModel
    params: GenerationParams
    kept: KeptResponse
    headers: dict[str, str]
    is_stream: bool

    async def respond(self, request: Request) -> Response:
        generation = Generation(self.model, self.params)
        run = await start_background(request, self.context, generation, self.kept, self.headers)
        if self.is_stream:
            return stream_run(request, run, after=0, with_ids=False)
        return json_response(self.kept.response, self.headers)

    async def collect(self) -> Any:
        raise AssertionError("a line of a batch cannot be a background response")


async def _check(body: PromptFields, request: EndpointRequest) -> None:
    _check_storing(body, request)
    prompt = await prompt_items(body, request.context.store, request.owner)
    await check_response(body, prompt.items, request.model, num_stored=prompt.num_stored)


def _check_one_server(body: PromptFields, config: ServerConfig) -> None:
    """Raise InvalidRequest for fields that need what an earlier request has stored, or store something, on a server
    that is one of several."""
    if not config.is_one_of_several:
        return
    for name in ("previous_response_id", "conversation", "background", "store"):
        if getattr(body, name, None):
            raise InvalidRequest(f"{name} is set: {needs_one_server('stored responses need')}", param=name)


def _check_storing(body: PromptFields, request: EndpointRequest) -> None:
    _check_one_server(body, request.context.config)
    if not isinstance(body, ResponsesRequest) or not body.background:
        return
    if request.is_batch:
        raise InvalidRequest("background is true; a line of a batch runs in the background anyway", param="background")
    if body.store is False:
        raise InvalidRequest("background is true and store is false; a background response is stored", param="store")


async def _prepare(body: ResponsesRequest, request: EndpointRequest) -> Work:
    _check_storing(body, request)
    model, config = request.model, request.context.config
    prompt = await prompt_items(body, request.context.store, request.owner)
    async with request.preparing():
        params = await response_params(body, prompt.items, model, request.arrival_s, num_stored=prompt.num_stored)
    # A line of a batch is stored only on request: a batch would displace what others stored.
    is_stored = body.store is True if request.is_batch else body.store is not False and not config.is_one_of_several
    kept = KeptResponse(
        body, params, prompt, model, request.context, owner=request.owner, request_id=request.id, is_stored=is_stored
    )
    if body.background:
        return BackgroundWork(
            context=request.context,
            model=model,
            params=params.generation,
            kept=kept,
            headers=params.headers,
            is_stream=bool(body.stream),
        )
    return GenerationWork(
        model,
        params.generation,
        kept,
        params.headers,
        is_stream=bool(body.stream),
        is_resumable=bool(body.resumable),
    )


async def _prepare_count(body: InputTokensRequest, request: EndpointRequest) -> FinishedWork:
    _check_storing(body, request)
    prompt = await prompt_items(body, request.context.store, request.owner)
    request.admit()
    request.suitable.check_generates(request.model)
    num_tokens, headers = await num_input_tokens(body, prompt.items, request.model, num_stored=prompt.num_stored)
    return FinishedWork({"object": "response.input_tokens", "input_tokens": num_tokens}, headers)


RESPONSES = Endpoint(
    path="/v1/responses",
    name="create_response",
    summary="Answer items with items, as a whole, as a stream, or in the background.",
    tag="Responses",
    bodies=(ResponsesRequest,),
    capability=Capability.GENERATES,
    check=_check,
    prepare=_prepare,
    answers={JSON: ResponseObject, EVENTS: StreamEvent},
    example={"input": "Why is the sky blue?", "max_output_tokens": 64, "store": False},
    errors=STORED_ERRORS,
    loading_error=responses_loading_error,
    is_batchable=True,
    is_resumable=True,
)
INPUT_TOKENS = Endpoint(
    path="/v1/responses/input_tokens",
    name="count_input_tokens",
    summary="Count the tokens of the prompt that a response with these fields would have.",
    tag="Responses",
    bodies=(InputTokensRequest,),
    capability=Capability.TOKENIZES,
    check=_check,
    prepare=_prepare_count,
    answers={JSON: ResponseInputTokens},
    example={"input": "Why is the sky blue?"},
    errors=STORED_ERRORS,
)
ENDPOINTS = (RESPONSES, INPUT_TOKENS)
