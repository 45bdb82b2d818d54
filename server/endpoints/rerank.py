"""POST /rerank, in the formats of Cohere, Jina and vLLM."""

import uuid
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from engine.protocol import PoolingTask
from server.endpoints.binding.endpoint import EndpointRequest
from server.endpoints.binding.pooling import pooling_endpoint, score_work
from server.endpoints.binding.work import PoolingWork
from server.openapi.operation import JSON
from server.pooling.encoding import PairNames
from server.schemas.pooling_answers import (
    ApiVersion,
    InputUsage,
    Ranked,
    RankedDocument,
    Ranking,
    RankMeta,
    RankTokens,
)
from server.schemas.scoring import RerankRequest


async def _prepare(body: RerankRequest, request: EndpointRequest, *, returns_documents: bool) -> PoolingWork:
    if body.return_documents is not None:
        returns_documents = body.return_documents

    def write(scores: list[float], num_tokens: int) -> Ranking:
        return Ranking(
            id=f"rerank-{uuid.uuid4().hex}",
            model=request.model.name,
            results=_ranked(scores, body, returns_documents=returns_documents),
            usage=InputUsage(num_tokens, num_tokens),
            meta=RankMeta(ApiVersion("2"), RankTokens(num_tokens)),
        )

    names = PairNames(first="query", second="documents", max_second_tokens=body.max_tokens_per_doc)
    pairs = [(body.query, document) for document in body.documents]
    return await score_work(pairs, body, request, names, write, use_activation=body.use_activation)


def _ranked(scores: Sequence[float], body: RerankRequest, *, returns_documents: bool) -> list[Ranked]:
    """Return the `top_n` documents with the highest scores, best first; ties keep their order in the request."""
    order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
    ranked = [Ranked(index=number, relevance_score=scores[number]) for number in order[: body.top_n or None]]
    if returns_documents:
        for each in ranked:
            each.document = RankedDocument(body.documents[each.index])
    return ranked


RERANK = pooling_endpoint(
    path="/v1/rerank",
    name="rerank_v1",
    summary="Rank documents by how well they match a query, best first, with their texts.",
    bodies=(RerankRequest,),
    tasks=(PoolingTask.SCORE, PoolingTask.EMBED),
    prepare=partial(_prepare, returns_documents=True),
    answers={JSON: Ranking},
    example={"model": "MODEL", "query": "What floats?", "documents": ["A stone sinks.", "A boat floats."]},
)
ENDPOINTS = (
    RERANK,
    replace(
        RERANK,
        path="/v2/rerank",
        name="rerank_v2",
        summary="The same in the shape of Cohere's second version, without the documents' texts.",
        tasks=(),
        prepare=partial(_prepare, returns_documents=False),
    ),
    replace(RERANK, path="/rerank", name="rerank", summary="The same as /v1/rerank.", tasks=()),
)
