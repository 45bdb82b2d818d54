"""answer_body: what the body of a batch's line is answered, by the same code as the body of an HTTP request."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from engine.errors import InvalidRequest
from engine.protocol import PoolingTask
from server.context import ServerContext
from server.generation.chat_params import chat_params
from server.generation.completion_params import completion_params
from server.generation.generation import Generation
from server.generation.params import GenerationParams
from server.generation.tool_results import check_results
from server.keys.caller import current_caller
from server.metrics.request_record import current_record
from server.pooling.checks import check_early
from server.pooling.computing import pool
from server.pooling.inputs import asked_inputs
from server.pooling.numbers import written
from server.protocols.chat import ChatFormatter
from server.protocols.completions import CompletionFormatter
from server.protocols.formatter import AnswerFormatter
from server.protocols.responses.params import response_params
from server.schemas.base import validate
from server.schemas.chat import ChatCompletionRequest
from server.schemas.completions import CompletionRequest
from server.schemas.pooling import EmbeddingRequest
from server.schemas.pooling_answers import Embedding, EmbeddingList, InputUsage
from server.schemas.responses import ResponsesRequest
from server.served.model import ServedModel
from server.state.history import prompt_items
from server.state.keeping import kept_response


@dataclass(frozen=True, slots=True)
class Asked:
    """A line's body, when it was begun (time.monotonic()), and the id by which its request is known."""

    body: dict[str, Any]
    arrival_s: float
    request_id: str


Headers = dict[str, str]
Answer = Callable[[ServerContext, Asked], Awaitable[tuple[Any, Headers]]]


async def answer_body(context: ServerContext, endpoint: str, asked: Asked) -> tuple[bytes, Headers]:
    """The answer's JSON, for the caller of this task, and the headers that tell what the request's fields led to.

    Raises what the endpoint would answer as an error.
    """
    answer, headers = await ENDPOINTS[endpoint](context, asked)
    return msgspec.json.encode(answer), headers


async def _chat(context: ServerContext, asked: Asked) -> tuple[Any, Headers]:
    body = validate(ChatCompletionRequest, asked.body)
    check_results(body.messages)
    async with _model(context, body.model) as model:
        async with model.client.batch_lane.preparing():
            params = await chat_params(body, model, asked.arrival_s)
        answer = await _collected(model, params, ChatFormatter(body, model.name, params.tokenizer))
        return answer, params.headers


async def _completion(context: ServerContext, asked: Asked) -> tuple[Any, Headers]:
    body = validate(CompletionRequest, asked.body)
    async with _model(context, body.model) as model:
        async with model.client.batch_lane.preparing():
            params = await completion_params(body, model, asked.arrival_s)
        answer = await _collected(model, params, CompletionFormatter(body, model.name, params.tokenizer))
        return answer, params.headers


async def _response(context: ServerContext, asked: Asked) -> tuple[Any, Headers]:
    """Stored only where the line says so: a batch would displace what others stored."""
    body = validate(ResponsesRequest, asked.body)
    if body.background:
        raise InvalidRequest("background is true; a line of a batch runs in the background anyway", param="background")
    owner = current_caller().owner
    async with _model(context, body.model) as model:
        prompt = await prompt_items(body, context.store, owner)
        async with model.client.batch_lane.preparing():
            params = await response_params(body, prompt.items, model, asked.arrival_s, num_stored=prompt.num_stored)
        kept = kept_response(
            body,
            params,
            prompt,
            model,
            context,
            owner=owner,
            request_id=asked.request_id,
            is_stored=body.store is True,
        )
        return await _collected(model, params.generation, kept), params.headers


async def _embeddings(context: ServerContext, asked: Asked) -> tuple[Any, Headers]:
    body = validate(EmbeddingRequest, asked.body)
    async with _model(context, body.model) as model:
        await check_early(None, body, model)
        async with model.client.batch_lane.preparing():
            inputs = await asked_inputs(
                body,
                model,
                asked.arrival_s,
                [PoolingTask.EMBED],
                dimensions=body.dimensions,
                normalize=body.normalized,
            )
        async with model.client.batch_lane.room():
            outputs = await pool(model, inputs.work)
        vectors = await written(outputs, model.workers, is_base64=body.is_base64)
        data = [Embedding(index=number, embedding=vector) for number, vector in enumerate(vectors)]
        num_tokens = inputs.work.num_tokens
        answer = EmbeddingList(data=data, model=model.name, usage=InputUsage(num_tokens, num_tokens))
        return answer, inputs.headers


# What lines may be for. Each answers a body as its route does.
ENDPOINTS: Mapping[str, Answer] = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _completion,
    "/v1/responses": _response,
    "/v1/embeddings": _embeddings,
}


@asynccontextmanager
async def _model(context: ServerContext, name: str | None) -> AsyncIterator[ServedModel]:
    """The model of that name, which stays loaded within the context. Raises ModelNotFound, as ServedModel.enter, and as
    ServedAdapters.read."""
    model = context.models.find(name)
    if (record := current_record()) is not None:
        record.model_name = model.name
    async with model.in_use(is_batch=True):
        if model.adapter is not None:
            await context.models.adapters.read(model.name, model)
        yield model


async def _collected(model: ServedModel, params: GenerationParams, formatter: AnswerFormatter) -> Any:
    room = model.client.batch_lane.room(params.num_sequences)
    async with room, Generation(model, params) as generation:
        return await formatter.collect(generation)
