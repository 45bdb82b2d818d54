"""What the routes beside generation answer."""

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType


class Tokenized(msgspec.Struct):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class Detokenized(msgspec.Struct):
    prompt: str


class ModelQuality(msgspec.Struct):
    kl_divergence: float
    top1_agreement: float
    perplexity: float
    reference_perplexity: float
    num_tokens: int
    reference: str
    perplexity_increase: float


class ModelLoad(msgspec.Struct):
    """Whether a model is loaded, and how far loading is. waiting: requests that wait for it."""

    state: Literal["unloaded", "loading", "loaded", "unloading", "failed"]
    reason: str | UnsetType | None = UNSET
    stage: str | UnsetType | None = UNSET
    progress: float | UnsetType | None = UNSET
    waiting: int | UnsetType = UNSET


class AdapterExtras(msgspec.Struct):
    """trained_on: what the adapter's files call their model."""

    rank: int
    size_bytes: int
    trained_on: str | None


class AdapterDeleted(msgspec.Struct):
    id: str
    object: Literal["model"]
    deleted: bool


class ModelExtras(ModelLoad, kw_only=True):
    """What OpenAI's and vLLM's cards have no place for. name: the first of the model's names, the same in the cards of
    all its names and adapters. memory_bytes: what the model takes while it is loaded, with its process.
    adapter_memory_bytes: what its adapters may take of that. capabilities: before it has been loaded, without those
    that depend on its chat template and vocabulary. The rest is known once it has been loaded."""

    name: str
    memory_bytes: int | UnsetType = UNSET
    adapter: AdapterExtras | UnsetType = UNSET
    capabilities: list[str] | UnsetType = UNSET
    kv_cache_bytes: int | UnsetType = UNSET
    dtype: str | UnsetType = UNSET
    device: str | UnsetType = UNSET
    weight_bytes: int | UnsetType = UNSET
    adapter_memory_bytes: int | UnsetType = UNSET
    weight_formats: dict[str, int] | UnsetType = UNSET
    quality: ModelQuality | UnsetType | None = UNSET


class LoadStatus(msgspec.Struct):
    """As in llama-server's router."""

    value: Literal["unloaded", "loading", "loaded", "unloading", "failed"]


class ModelCard(msgspec.Struct):
    """Much is null while the model loads."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None  # of an adapter, its model
    max_model_len: int | None
    status: LoadStatus
    headrace: ModelExtras


class ModelList(msgspec.Struct):
    object: Literal["list"]
    data: list[ModelCard]


class ServerVersion(msgspec.Struct):
    version: str


class LogLevelAnswer(msgspec.Struct):
    level: str


class Health(msgspec.Struct):
    """`models`: only with several models, or with models that are loaded on demand. The other fields: only if the
    status is not ok."""

    status: str
    models: list[ModelLoad] | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    stage: str | UnsetType | None = UNSET
    progress: float | UnsetType | None = UNSET


class DrainState(msgspec.Struct):
    """drained: nothing runs, and no new requests are accepted. unfinished: waiting or running requests."""

    status: str
    drained: bool
    unfinished: int


class InputTokens(msgspec.Struct):
    """Of Anthropic's protocol."""

    input_tokens: int


class ResponseInputTokens(msgspec.Struct):
    """Of the Responses API."""

    object: Literal["response.input_tokens"]
    input_tokens: int


class InfillAnswer(msgspec.Struct, kw_only=True):
    """llama-server's answer, as a whole and as a stream's last event; `response_fields` selects fields."""

    index: int | UnsetType = UNSET
    content: str | UnsetType = UNSET
    tokens: list[int] | UnsetType = UNSET
    id_slot: int | UnsetType = UNSET
    stop: bool | UnsetType = UNSET
    model: str | UnsetType = UNSET
    tokens_predicted: int | UnsetType = UNSET
    tokens_evaluated: int | UnsetType = UNSET
    tokens_cached: int | UnsetType = UNSET
    generation_settings: dict[str, Any] | UnsetType = UNSET
    has_new_line: bool | UnsetType = UNSET
    truncated: bool | UnsetType = UNSET
    stop_type: Literal["eos", "limit", "word"] | UnsetType = UNSET
    stopping_word: str | UnsetType = UNSET
    timings: dict[str, float] | UnsetType = UNSET


class InfillPiece(msgspec.Struct):
    """A stream's event before the last one."""

    index: int
    content: str
    tokens: list[int]
    stop: bool
    id_slot: int
    tokens_predicted: int
    tokens_evaluated: int


class Conversation(msgspec.Struct):
    id: str
    object: Literal["conversation"]
    created_at: int
    metadata: dict[str, str]


class ItemList(msgspec.Struct):
    """A page of items, as they were sent or generated."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Deleted(msgspec.Struct):
    id: str
    object: Literal["conversation.deleted", "response", "stream", "file"]
    deleted: bool
