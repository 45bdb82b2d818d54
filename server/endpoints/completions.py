"""POST /v1/completions."""

from server.endpoints.binding.endpoint import Capability, Endpoint, EndpointRequest
from server.endpoints.binding.work import GenerationWork
from server.generation.params.completions import check_completion, completion_params
from server.openapi.operation import EVENTS, JSON
from server.protocols.completions import CompletionFormatter
from server.protocols.frame import openai_loading_error
from server.schemas.answers import TextCompletion
from server.schemas.completions import CompletionRequest


async def _check(body: CompletionRequest, request: EndpointRequest) -> None:
    check_completion(body, request.model)


async def _prepare(body: CompletionRequest, request: EndpointRequest) -> GenerationWork:
    async with request.preparing():
        params = await completion_params(body, request.model, request.arrival_s)
    formatter = CompletionFormatter(body, request.model, params.tokenizer)
    return GenerationWork(
        request.model, params, formatter, is_stream=bool(body.stream), is_resumable=bool(body.resumable)
    )


COMPLETIONS = Endpoint(
    path="/v1/completions",
    name="create_completion",
    summary="Continue one or several texts, as a whole or as a stream.",
    tag="Chats and completions",
    bodies=(CompletionRequest,),
    capability=Capability.GENERATES,
    check=_check,
    prepare=_prepare,
    answers={JSON: TextCompletion, EVENTS: TextCompletion},
    example={"prompt": "Once upon a time", "max_tokens": 32},
    loading_error=openai_loading_error,
    is_batchable=True,
    is_resumable=True,
    has_end_mark=True,
    has_constraints=True,
    span_operation="text_completion",
)
ENDPOINTS = (COMPLETIONS,)
