"""POST /api/embed and /api/embeddings: Ollama's embeddings."""

import time
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from engine.protocol import PoolingTask
from server.context import ServerContext
from server.http.body import Context, json_body
from server.http.disconnect import until_disconnect
from server.http.models import entered
from server.http.preparing import prepared
from server.pooling.checks import pooling_info
from server.pooling.computing import pool
from server.pooling.inputs import asked_inputs
from server.pooling.numbers import written
from server.protocols.field_names import client_names
from server.protocols.ollama.embeddings import (
    EMBEDDINGS_NAMES,
    embedding_of,
    old_embedding_of,
    unhonored_embed_fields,
)
from server.protocols.ollama.names import served_name
from server.routes.ollama_model import check_keep_alive, keep_loaded, ollama_model
from server.schemas.ollama import OllamaEmbeddingsRequest, OllamaEmbedRequest
from server.schemas.ollama_answers import OllamaEmbedded, OllamaEmbedding
from server.schemas.parameters import OLLAMA_PARAMETERS, ignored_header, ignored_parameters
from server.schemas.pooling import EmbeddingRequest
from server.served.model import ServedModel

router = APIRouter(tags=["Ollama's"])


@router.post("/api/embed")
async def ollama_embed(
    request: Request, context: Context, body: Annotated[OllamaEmbedRequest, Depends(json_body(OllamaEmbedRequest))]
) -> Response:
    """Compute an embedding of each input in Ollama's protocol; inputs that are too long are cut off."""
    model, name, headers = await _entered(request, body, context)
    entered_s = time.monotonic()
    vectors: list[msgspec.Raw] = []
    num_tokens = 0
    if body.input:
        vectors, num_tokens = await _vectors(request, model, embedding_of(body, name))
    else:
        pooling_info(model)
    arrival_s = request.state.arrival_s
    answer = OllamaEmbedded(
        model=body.model,
        embeddings=vectors,
        total_duration=_nanoseconds(time.monotonic() - arrival_s),
        load_duration=_nanoseconds(entered_s - arrival_s),
        prompt_eval_count=num_tokens,
    )
    return _json(answer, headers)


@router.post("/api/embeddings")
async def ollama_embeddings(
    request: Request,
    context: Context,
    body: Annotated[OllamaEmbeddingsRequest, Depends(json_body(OllamaEmbeddingsRequest))],
) -> Response:
    """Compute an embedding of one prompt, as Ollama did before /api/embed."""
    model, name, headers = await _entered(request, body, context)
    vector = msgspec.Raw(b"[]")
    if body.prompt:
        with client_names(EMBEDDINGS_NAMES):
            (vector,), _ = await _vectors(request, model, old_embedding_of(body, name))
    else:
        pooling_info(model)
    return _json(OllamaEmbedding(vector), headers)


async def _entered(
    request: Request, body: OllamaEmbedRequest | OllamaEmbeddingsRequest, context: ServerContext
) -> tuple[ServedModel, str, dict[str, str]]:
    """The model, which is loaded, its served name, and headers that list what is ignored."""
    model = ollama_model(body.model, context)
    check_keep_alive(body.keep_alive)
    await entered(request, model)
    model.check_admission()
    unhonored = unhonored_embed_fields(body, pooling_info(model).max_input_tokens)
    if keep_loaded(model, body.keep_alive):
        del unhonored["keep_alive"]
    ignored = ignored_parameters(unhonored, strict=model.config.strict_parameters, table=OLLAMA_PARAMETERS)
    return model, served_name(body.model, model.visible_names), ignored_header(ignored)


async def _vectors(request: Request, model: ServedModel, asked: EmbeddingRequest) -> tuple[list[msgspec.Raw], int]:
    """The vectors as JSON, and how many tokens the inputs have."""
    asking = asked_inputs(
        asked,
        model,
        request.state.arrival_s,
        [PoolingTask.EMBED],
        dimensions=asked.dimensions,
        normalize=asked.normalized,
    )
    inputs = await prepared(request, model, asking)

    async def computed() -> list[msgspec.Raw]:
        return await written(await pool(model, inputs.work), model.workers)

    return await until_disconnect(computed(), request.receive), inputs.work.num_tokens


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _json(answer: msgspec.Struct, headers: dict[str, str]) -> Response:
    return Response(msgspec.json.encode(answer), headers=headers, media_type="application/json")
