"""POST /embedding, in llama-server's format."""

from engine.protocol import PoolingOutput, PoolingTask
from server.endpoints.binding.endpoint import EndpointRequest
from server.endpoints.binding.pooling import pooling_endpoint, pooling_work
from server.endpoints.binding.work import PoolingWork
from server.openapi.operation import JSON
from server.pooling.numbers import values_as_json
from server.schemas.pooling import LlamaEmbeddingRequest
from server.schemas.pooling_answers import LlamaEmbedding


async def _prepare(body: LlamaEmbeddingRequest, request: EndpointRequest) -> PoolingWork:
    async def write(outputs: list[PoolingOutput], _num_tokens: int) -> list[LlamaEmbedding]:
        vectors = await values_as_json(outputs, request.model.workers)
        return [LlamaEmbedding(number, [vector]) for number, vector in enumerate(vectors)]

    return await pooling_work(
        body.embedding, request, [PoolingTask.EMBED], write, name="content", normalize=body.normalized
    )


LLAMA_EMBEDDING = pooling_endpoint(
    path="/embedding",
    name="llama_embedding",
    summary="Compute an embedding of each input, as llama-server does.",
    bodies=(LlamaEmbeddingRequest,),
    prepare=_prepare,
    answers={JSON: list[LlamaEmbedding]},
    example={"content": "What floats?"},
)
ENDPOINTS = (LLAMA_EMBEDDING,)
