"""POST /classify, in vLLM's format."""

import time
import uuid

from engine.protocol import PoolingInfo, PoolingOutput, PoolingTask
from server.endpoints.binding.endpoint import EndpointRequest
from server.endpoints.binding.pooling import pooling_endpoint, pooling_work
from server.endpoints.binding.work import PoolingWork
from server.openapi.operation import JSON
from server.pooling.checks import pooling_info
from server.pooling.numbers import floats_of
from server.schemas.pooling import ClassifyRequest
from server.schemas.pooling_answers import Classified, ClassifiedList, InputUsage


async def _prepare(body: ClassifyRequest, request: EndpointRequest) -> PoolingWork:
    model = request.model

    async def write(outputs: list[PoolingOutput], num_tokens: int) -> ClassifiedList:
        info = pooling_info(model)
        return ClassifiedList(
            id=f"classify-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=model.name,
            data=[
                _classified(number, floats_of(output.values).tolist(), info) for number, output in enumerate(outputs)
            ],
            usage=InputUsage(num_tokens, num_tokens),
        )

    return await pooling_work(body, request, [PoolingTask.CLASSIFY], write, normalize=body.use_activation)


def _classified(number: int, probs: list[float], info: PoolingInfo) -> Classified:
    best = max(range(len(probs)), key=probs.__getitem__)
    label = info.labels[best] if best < len(info.labels) else None
    return Classified(index=number, label=label, probs=probs, num_classes=len(probs))


CLASSIFY = pooling_endpoint(
    path="/classify",
    name="classify",
    summary="Score each input for each of a classifier's labels, in vLLM's shape.",
    bodies=(ClassifyRequest,),
    tasks=(PoolingTask.CLASSIFY,),
    prepare=_prepare,
    answers={JSON: ClassifiedList},
    example={"model": "MODEL", "input": "I have never had a better meal."},
)
ENDPOINTS = (CLASSIFY,)
