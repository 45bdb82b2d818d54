"""POST /v1/embeddings, in OpenAI's format."""

from engine.protocol import PoolingOutput, PoolingTask
from server.endpoints.binding.endpoint import EndpointRequest
from server.endpoints.binding.pooling import pooling_endpoint, pooling_work
from server.endpoints.binding.work import PoolingWork
from server.openapi.operation import JSON
from server.pooling.numbers import values_as_json
from server.schemas.pooling import EmbeddingRequest
from server.schemas.pooling_answers import EmbeddingList, EmbeddingObject, InputUsage


async def _prepare(body: EmbeddingRequest, request: EndpointRequest) -> PoolingWork:
    model = request.model

    async def write(outputs: list[PoolingOutput], num_tokens: int) -> EmbeddingList:
        vectors = await values_as_json(outputs, model.workers, is_base64=body.is_base64)
        data = [EmbeddingObject(index=number, embedding=vector) for number, vector in enumerate(vectors)]
        return EmbeddingList(data=data, model=model.name, usage=InputUsage(num_tokens, num_tokens))

    return await pooling_work(
        body, request, [PoolingTask.EMBED], write, dimensions=body.dimensions, normalize=body.normalized
    )


EMBEDDINGS = pooling_endpoint(
    path="/v1/embeddings",
    name="create_embeddings",
    summary="Compute an embedding of each input.",
    bodies=(EmbeddingRequest,),
    tasks=(PoolingTask.EMBED,),
    prepare=_prepare,
    answers={JSON: EmbeddingList},
    example={"model": "MODEL", "input": ["What floats?", "A boat floats."]},
    is_batchable=True,
)
ENDPOINTS = (EMBEDDINGS,)
