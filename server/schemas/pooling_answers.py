"""Responses of pooling models, as msgspec structs. Vectors are lists of numbers, or base64 of fp32."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, UnsetType

_LIST = {"type": "array", "items": {"type": "number"}}
_ROWS = {"type": "array", "items": _LIST}
_TEXT = {"type": "string"}
# Vectors are encoded one by one, so that other threads run in between.
Numbers = Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema=_LIST)]
Vector = Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"anyOf": [_LIST, _TEXT]})]
Vectors = Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"anyOf": [_LIST, _ROWS, _TEXT]})]


class InputUsage(msgspec.Struct):
    prompt_tokens: int
    total_tokens: int


class EmbeddingObject(msgspec.Struct, kw_only=True):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: Vector


class EmbeddingList(msgspec.Struct, kw_only=True):
    object: Literal["list"] = "list"
    data: list[EmbeddingObject]
    model: str
    usage: InputUsage


class ValueList(msgspec.Struct, kw_only=True):
    """The fields, except `data`, of the lists that vLLM's pooling endpoints return."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    usage: InputUsage


class Pooled(msgspec.Struct, kw_only=True):
    object: Literal["pooling"] = "pooling"
    index: int
    data: Vectors


class PooledList(ValueList, kw_only=True):
    data: list[Pooled]


class Classified(msgspec.Struct, kw_only=True):
    index: int
    label: str | None  # the likeliest label; null if the model has no names of labels
    probs: list[float]
    num_classes: int


class ClassifiedList(ValueList, kw_only=True):
    data: list[Classified]


class ScoreObject(msgspec.Struct, kw_only=True):
    object: Literal["score"] = "score"
    index: int
    score: float


class ScoreList(ValueList, kw_only=True):
    data: list[ScoreObject]


class RankedDocument(msgspec.Struct):
    text: str


class Ranked(msgspec.Struct, kw_only=True):
    index: int  # index in the request's documents
    relevance_score: float
    document: RankedDocument | UnsetType = UNSET


class ApiVersion(msgspec.Struct):
    version: str


class RankTokens(msgspec.Struct):
    input_tokens: int


class RankMeta(msgspec.Struct):
    """Metadata for Cohere's clients."""

    api_version: ApiVersion
    tokens: RankTokens


class Ranking(msgspec.Struct, kw_only=True):
    """The response of /rerank: the documents, the most relevant first."""

    id: str
    object: Literal["list"] = "list"
    model: str
    results: list[Ranked]
    usage: InputUsage
    meta: RankMeta


class LlamaEmbedding(msgspec.Struct):
    """The embedding of one input, in llama-server's shape: a list of one vector."""

    index: int
    embedding: list[Numbers]
