"""POST /pooling, in vLLM's format."""

import time
import uuid

from engine.protocol import PoolingOutput, PoolingTask
from server.endpoints.binding.endpoint import EndpointRequest
from server.endpoints.binding.pooling import pooling_endpoint, pooling_work
from server.endpoints.binding.work import PoolingWork
from server.openapi.operation import JSON
from server.pooling.checks import pooling_info
from server.pooling.numbers import values_as_json
from server.schemas.pooling import PoolingBody
from server.schemas.pooling_answers import InputUsage, Pooled, PooledList


async def _prepare(body: PoolingBody, request: EndpointRequest) -> PoolingWork:
    model = request.model

    async def write(outputs: list[PoolingOutput], num_tokens: int) -> PooledList:
        values = await values_as_json(outputs, model.workers, is_base64=body.is_base64)
        return PooledList(
            id=f"pool-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=model.name,
            data=[Pooled(index=number, data=each) for number, each in enumerate(values)],
            usage=InputUsage(num_tokens, num_tokens),
        )

    tasks = pooling_info(model).tasks if body.task is None else [PoolingTask(body.task)]
    return await pooling_work(body, request, tasks, write, dimensions=body.dimensions, normalize=body.normalized)


POOLING = pooling_endpoint(
    path="/pooling",
    name="create_pooling",
    summary=(
        "Compute a pooling model's output for each input, in vLLM's shape: a vector, a vector per token, or scores."
    ),
    bodies=(PoolingBody,),
    tasks=(PoolingTask.TOKEN_EMBED, PoolingTask.EMBED, PoolingTask.CLASSIFY, PoolingTask.SCORE),
    prepare=_prepare,
    answers={JSON: PooledList},
    example={"model": "MODEL", "input": "What floats?", "task": "embed"},
)
ENDPOINTS = (POOLING,)
