"""POST /embedding, in llama-server's shape."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from engine.protocol import PoolingTask
from server.http.body import json_body
from server.http.disconnect import until_disconnect
from server.http.models import asked_model
from server.http.preparing import prepared
from server.pooling.checks import check_early
from server.pooling.computing import pool
from server.pooling.inputs import asked_inputs
from server.pooling.numbers import written
from server.protocols.field_names import client_names
from server.schemas.pooling import LlamaEmbeddingRequest
from server.schemas.pooling_answers import LlamaEmbedding
from server.served.model import ServedModel

router = APIRouter(tags=["Embeddings and scores"])


@router.post("/embedding")
async def llama_embedding(
    request: Request,
    body: Annotated[LlamaEmbeddingRequest, Depends(json_body(LlamaEmbeddingRequest))],
    model: Annotated[ServedModel, Depends(asked_model(LlamaEmbeddingRequest, check_early))],
) -> Response:
    """Compute an embedding of each input, as llama-server does."""
    with client_names({"input": "content"}):
        asking = asked_inputs(
            body.embedding, model, request.state.arrival_s, [PoolingTask.EMBED], normalize=body.normalized
        )
        asked = await prepared(request, model, asking)

        async def computed() -> list[msgspec.Raw]:
            return await written(await pool(model, asked.work), model.workers)

        vectors = await until_disconnect(computed(), request.receive)
    answer = [LlamaEmbedding(number, [vector]) for number, vector in enumerate(vectors)]
    return Response(msgspec.json.encode(answer), headers=asked.headers, media_type="application/json")
