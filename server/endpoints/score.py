"""POST /score, in vLLM's format."""

import time
import uuid
from dataclasses import replace

from engine.protocol import PoolingTask
from server.endpoints.binding.endpoint import EndpointRequest
from server.endpoints.binding.pooling import pooling_endpoint, score_work
from server.endpoints.binding.work import PoolingWork
from server.openapi.operation import JSON
from server.pooling.encoding import PairNames
from server.schemas.pooling_answers import InputUsage, ScoreList, ScoreObject
from server.schemas.scoring import ScoreRequest


async def _prepare(body: ScoreRequest, request: EndpointRequest) -> PoolingWork:
    def write(scores: list[float], num_tokens: int) -> ScoreList:
        return ScoreList(
            id=f"score-{uuid.uuid4().hex}",
            created=int(time.time()),
            model=request.model.name,
            data=[ScoreObject(index=number, score=each) for number, each in enumerate(scores)],
            usage=InputUsage(num_tokens, num_tokens),
        )

    names = PairNames(first=body.first_name, second=body.second_name)
    return await score_work(body.pairs, body, request, names, write, use_activation=body.use_activation)


SCORE = pooling_endpoint(
    path="/v1/score",
    name="score_v1",
    summary="Score how well a text matches several others, or how well the texts of each pair match, in vLLM's shape.",
    bodies=(ScoreRequest,),
    tasks=(PoolingTask.SCORE, PoolingTask.EMBED),
    prepare=_prepare,
    answers={JSON: ScoreList},
    example={"model": "MODEL", "text_1": "What floats?", "text_2": ["A stone sinks.", "A boat floats."]},
)
ENDPOINTS = (SCORE, replace(SCORE, path="/score", name="score", summary="The same as /v1/score.", tasks=()))
