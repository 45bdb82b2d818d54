"""/rerank in the shapes of Cohere, Jina and vLLM, and vLLM's /score."""

import time
import uuid
from collections.abc import Coroutine, Sequence
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from server.http.body import json_body
from server.http.disconnect import until_disconnect
from server.http.models import asked_model
from server.http.preparing import prepared
from server.pooling.checks import check_early
from server.pooling.inputs import checked
from server.pooling.scores import PairNames, Scored, ScoreWork, score_work, scored
from server.schemas.parameters import ignored_header
from server.schemas.pooling_answers import (
    ApiVersion,
    InputUsage,
    Ranked,
    RankedDocument,
    Ranking,
    RankMeta,
    RankTokens,
    Score,
    ScoreList,
)
from server.schemas.scoring import RerankRequest, ScoreRequest
from server.served.model import ServedModel

router = APIRouter(tags=["Embeddings and scores"])

RerankBody = Annotated[RerankRequest, Depends(json_body(RerankRequest))]
RerankModel = Annotated[ServedModel, Depends(asked_model(RerankRequest, check_early))]
ScoreBody = Annotated[ScoreRequest, Depends(json_body(ScoreRequest))]
ScoreModel = Annotated[ServedModel, Depends(asked_model(ScoreRequest, check_early))]


@router.post("/v1/rerank")
async def rerank_v1(request: Request, body: RerankBody, model: RerankModel) -> Response:
    """Rank documents by how well they match a query, best first, with their texts."""
    return await _rerank(request, body, model, returns_documents=True)


@router.post("/v2/rerank")
async def rerank_v2(request: Request, body: RerankBody, model: RerankModel) -> Response:
    """The same in the shape of Cohere's second version, without the documents' texts."""
    return await _rerank(request, body, model, returns_documents=False)


@router.post("/rerank")
async def rerank(request: Request, body: RerankBody, model: RerankModel) -> Response:
    """The same as /v1/rerank."""
    return await _rerank(request, body, model, returns_documents=True)


@router.post("/v1/score")
async def score_v1(request: Request, body: ScoreBody, model: ScoreModel) -> Response:
    """Score how well a text matches several others, or how well the texts of each pair match, in vLLM's shape."""
    return await _score(request, body, model)


@router.post("/score")
async def score(request: Request, body: ScoreBody, model: ScoreModel) -> Response:
    """The same as /v1/score."""
    return await _score(request, body, model)


async def _rerank(request: Request, body: RerankRequest, model: ServedModel, *, returns_documents: bool) -> Response:
    ignored, terms = checked(body, model, request.state.arrival_s)
    names = PairNames(first="query", second="documents", max_second_tokens=body.max_tokens_per_doc)
    pairs = [(body.query, document) for document in body.documents]
    asking = score_work(pairs, body, model, terms, names, use_activation=body.use_activation)
    found = await _scored(request, model, asking)
    if body.return_documents is not None:
        returns_documents = body.return_documents
    answer = Ranking(
        id=f"rerank-{uuid.uuid4().hex}",
        model=model.name,
        results=_ranked(found.scores, body, returns_documents=returns_documents),
        usage=_usage(found),
        meta=RankMeta(ApiVersion("2"), RankTokens(found.num_tokens)),
    )
    return _json(answer, ignored)


def _ranked(scores: Sequence[float], body: RerankRequest, *, returns_documents: bool) -> list[Ranked]:
    """The best `top_n`; of equals the first one sent is first."""
    order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
    ranked = [Ranked(index=number, relevance_score=scores[number]) for number in order[: body.top_n or None]]
    if returns_documents:
        for each in ranked:
            each.document = RankedDocument(body.documents[each.index])
    return ranked


async def _score(request: Request, body: ScoreRequest, model: ServedModel) -> Response:
    ignored, terms = checked(body, model, request.state.arrival_s)
    names = PairNames(first=body.first_name, second=body.second_name)
    asking = score_work(body.pairs, body, model, terms, names, use_activation=body.use_activation)
    found = await _scored(request, model, asking)
    answer = ScoreList(
        id=f"score-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=model.name,
        data=[Score(index=number, score=each) for number, each in enumerate(found.scores)],
        usage=_usage(found),
    )
    return _json(answer, ignored)


async def _scored(request: Request, model: ServedModel, asking: Coroutine[Any, Any, ScoreWork]) -> Scored:
    asked = await prepared(request, model, asking)
    return await until_disconnect(scored(model, asked), request.receive)


def _usage(found: Scored) -> InputUsage:
    return InputUsage(found.num_tokens, found.num_tokens)


def _json(answer: msgspec.Struct, ignored: list[str]) -> Response:
    return Response(msgspec.json.encode(answer), headers=ignored_header(ignored), media_type="application/json")
