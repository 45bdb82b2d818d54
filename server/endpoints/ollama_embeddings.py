"""POST /api/embed and /api/embeddings, in Ollama's protocol."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec

from engine.protocol import PoolingOutput, PoolingTask
from server.endpoints.binding.endpoint import Capability, Endpoint, EndpointRequest
from server.endpoints.binding.pooling import pooling_work
from server.endpoints.binding.work import FinishedWork, PoolingWork, Work
from server.openapi.operation import JSON
from server.pooling.checks import pooling_info
from server.pooling.numbers import values_as_json
from server.protocols.ollama.loading import accept_fields, check_keep_alive, model_of
from server.protocols.ollama.requests import translate_embed, translate_embeddings, unhonored_embed_fields
from server.schemas.ollama import OllamaEmbeddingsRequest, OllamaEmbedRequest
from server.schemas.ollama_answers import OllamaEmbedded, OllamaEmbedding
from server.schemas.parameters import ignored_header
from server.schemas.pooling import EmbeddingRequest
from server.served.model import ServedModel

OllamaBody = OllamaEmbedRequest | OllamaEmbeddingsRequest


async def _check(body: OllamaBody, _request: EndpointRequest) -> None:
    check_keep_alive(body.keep_alive)


async def _prepare_embed(body: OllamaEmbedRequest, request: EndpointRequest) -> Work:
    name, ignored = _accepted(body, request.model)
    loaded_s = time.monotonic()

    def write(vectors: list[msgspec.Raw], num_tokens: int) -> OllamaEmbedded:
        return OllamaEmbedded(
            model=body.model,
            embeddings=vectors,
            total_duration=_nanoseconds(time.monotonic() - request.arrival_s),
            load_duration=_nanoseconds(loaded_s - request.arrival_s),
            prompt_eval_count=num_tokens,
        )

    if not body.input:
        return FinishedWork(write([], 0), ignored_header(ignored))
    return await _work(translate_embed(body, name), request, write, ignored, name="input")


async def _prepare_embeddings(body: OllamaEmbeddingsRequest, request: EndpointRequest) -> Work:
    name, ignored = _accepted(body, request.model)
    if not body.prompt:
        return FinishedWork(OllamaEmbedding(msgspec.Raw(b"[]")), ignored_header(ignored))

    def write(vectors: list[msgspec.Raw], _num_tokens: int) -> OllamaEmbedding:
        (vector,) = vectors
        return OllamaEmbedding(vector)

    return await _work(translate_embeddings(body, name), request, write, ignored, name="prompt")


def _accepted(body: OllamaBody, model: ServedModel) -> tuple[str, list[str]]:
    """Check the body's fields; return the model's served name and the ignored fields. Raises InvalidRequest and
    EngineUnavailable."""
    check_keep_alive(body.keep_alive)
    model.check_admission()
    return accept_fields(body, model, unhonored_embed_fields(body, pooling_info(model).max_input_tokens))


async def _work(
    translated: EmbeddingRequest,
    request: EndpointRequest,
    write: Callable[[list[msgspec.Raw], int], Any],
    ignored: list[str],
    *,
    name: str,
) -> PoolingWork:
    async def write_vectors(outputs: list[PoolingOutput], num_tokens: int) -> Any:
        return write(await values_as_json(outputs, request.model.workers), num_tokens)

    work = await pooling_work(
        translated,
        request,
        [PoolingTask.EMBED],
        write_vectors,
        name=name,
        dimensions=translated.dimensions,
        normalize=translated.normalized,
    )
    return replace(work, headers=ignored_header(ignored))


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


OLLAMA_EMBED: Endpoint[Any] = Endpoint(
    path="/api/embed",
    name="ollama_embed",
    summary="Compute an embedding of each input in Ollama's protocol; inputs that are too long are cut off.",
    tag="Ollama's",
    bodies=(OllamaEmbedRequest,),
    capability=Capability.POOLS,
    check=_check,
    model=model_of,
    prepare=_prepare_embed,
    answers={JSON: OllamaEmbedded},
    example={"model": "MODEL", "input": ["What floats?", "A boat floats."]},
    always_waits=False,
)
OLLAMA_EMBEDDINGS = replace(
    OLLAMA_EMBED,
    path="/api/embeddings",
    name="ollama_embeddings",
    summary="Compute an embedding of one prompt, as Ollama did before /api/embed.",
    bodies=(OllamaEmbeddingsRequest,),
    prepare=_prepare_embeddings,
    answers={JSON: OllamaEmbedding},
    example={"model": "MODEL", "prompt": "What floats?"},
)
ENDPOINTS = (OLLAMA_EMBED, OLLAMA_EMBEDDINGS)
