"""POST /v1/embeddings, in OpenAI's shapes, and vLLM's /pooling and /classify."""

import time
import uuid
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from engine.protocol import PoolingInfo, PoolingTask
from server.http.body import json_body
from server.http.disconnect import until_disconnect
from server.http.models import asked_model
from server.http.preparing import prepared
from server.pooling.checks import check_early, pooling_info
from server.pooling.computing import pool
from server.pooling.inputs import AskedInputs, asked_inputs
from server.pooling.numbers import floats_of, written
from server.schemas.pooling import ClassifyRequest, EmbeddingRequest, PoolingBody, VectorFields
from server.schemas.pooling_answers import (
    Classified,
    ClassifiedList,
    Embedding,
    EmbeddingList,
    InputUsage,
    Pooled,
    PooledList,
)
from server.served.model import ServedModel

router = APIRouter(tags=["Embeddings and scores"])


@router.post("/v1/embeddings")
async def create_embeddings(
    request: Request,
    body: Annotated[EmbeddingRequest, Depends(json_body(EmbeddingRequest))],
    model: Annotated[ServedModel, Depends(asked_model(EmbeddingRequest, check_early))],
) -> Response:
    """Compute an embedding of each input."""
    asked = await _asked(request, body, model, [PoolingTask.EMBED])
    vectors = await until_disconnect(_computed(model, asked, body), request.receive)
    data = [Embedding(index=number, embedding=vector) for number, vector in enumerate(vectors)]
    return _json(EmbeddingList(data=data, model=model.name, usage=_usage(asked)), asked)


@router.post("/pooling")
async def create_pooling(
    request: Request,
    body: Annotated[PoolingBody, Depends(json_body(PoolingBody))],
    model: Annotated[ServedModel, Depends(asked_model(PoolingBody, check_early))],
) -> Response:
    """Compute a pooling model's output for each input, in vLLM's shape: a vector, a vector per token, or scores."""
    tasks = pooling_info(model).tasks if body.task is None else [PoolingTask(body.task)]
    asked = await _asked(request, body, model, tasks)
    values = await until_disconnect(_computed(model, asked, body), request.receive)
    data = [Pooled(index=number, data=each) for number, each in enumerate(values)]
    created, name = int(time.time()), f"pool-{uuid.uuid4().hex}"
    return _json(PooledList(id=name, created=created, model=model.name, data=data, usage=_usage(asked)), asked)


@router.post("/classify")
async def classify(
    request: Request,
    body: Annotated[ClassifyRequest, Depends(json_body(ClassifyRequest))],
    model: Annotated[ServedModel, Depends(asked_model(ClassifyRequest, check_early))],
) -> Response:
    """Score each input for each of a classifier's labels, in vLLM's shape."""
    asking = asked_inputs(body, model, request.state.arrival_s, [PoolingTask.CLASSIFY], normalize=body.use_activation)
    asked = await prepared(request, model, asking)
    outputs = await until_disconnect(pool(model, asked.work), request.receive)
    info = pooling_info(model)
    data = [_classified(number, floats_of(output.values).tolist(), info) for number, output in enumerate(outputs)]
    created, name = int(time.time()), f"classify-{uuid.uuid4().hex}"
    return _json(ClassifiedList(id=name, created=created, model=model.name, data=data, usage=_usage(asked)), asked)


async def _asked(request: Request, body: VectorFields, model: ServedModel, tasks: list[PoolingTask]) -> AskedInputs:
    arrival_s = request.state.arrival_s
    asking = asked_inputs(body, model, arrival_s, tasks, dimensions=body.dimensions, normalize=body.normalized)
    return await prepared(request, model, asking)


async def _computed(model: ServedModel, asked: AskedInputs, body: VectorFields) -> list[msgspec.Raw]:
    return await written(await pool(model, asked.work), model.workers, is_base64=body.is_base64)


def _classified(number: int, probs: list[float], info: PoolingInfo) -> Classified:
    best = max(range(len(probs)), key=probs.__getitem__)
    label = info.labels[best] if best < len(info.labels) else None
    return Classified(index=number, label=label, probs=probs, num_classes=len(probs))


def _usage(asked: AskedInputs) -> InputUsage:
    return InputUsage(asked.work.num_tokens, asked.work.num_tokens)


def _json(answer: msgspec.Struct, asked: AskedInputs) -> Response:
    return Response(msgspec.json.encode(answer), headers=asked.headers, media_type="application/json")
