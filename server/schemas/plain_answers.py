"""Responses of routes that do not run a model, and of /infill."""

from collections.abc import Sequence
from typing import Any, Literal, Self

import msgspec
from msgspec import UNSET, UnsetType


class Tokenized(msgspec.Struct):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class AddedTokenInfo(msgspec.Struct):
    content: str
    single_word: bool
    lstrip: bool
    rstrip: bool
    normalized: bool
    special: bool


class TokenizerConfiguration(msgspec.Struct):
    tokenizer_class: str
    add_bos_token: bool
    model_max_length: int
    eos_token_ids: list[int]  # the generation config's too
    chat_template: str | None
    added_tokens_decoder: dict[str, AddedTokenInfo]  # by token id
    bos_token: str | UnsetType = UNSET  # absent if the checkpoint has none, as are the next three
    eos_token: str | UnsetType = UNSET
    pad_token: str | UnsetType = UNSET
    unk_token: str | UnsetType = UNSET


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
    """The state of a model, and the progress of its load. waiting: number of requests that wait for the model."""

    state: Literal["unloaded", "loading", "loaded", "unloading", "failed"]
    reason: str | UnsetType | None = UNSET
    stage: str | UnsetType | None = UNSET
    progress: float | UnsetType | None = UNSET
    waiting: int | UnsetType = UNSET


class AdapterExtras(msgspec.Struct):
    """Properties of an adapter. trained_on: the base model's name according to the adapter's files."""

    rank: int
    size_bytes: int
    trained_on: str | None


class AdapterDeleted(msgspec.Struct):
    id: str
    object: Literal["model"]
    deleted: bool


class ModelExtras(ModelLoad, kw_only=True):
    """Properties of a model that OpenAI's and vLLM's model cards do not have. name: the model's primary name, also on
    the cards of its other names and its adapters. memory_bytes: memory of the loaded model and its process.
    adapter_memory_bytes: the share of its adapters. capabilities: before the first load, without the capabilities that
    depend on the chat template or vocabulary. default_sampling_params: values for requests that leave the parameters
    out. The other fields are known once the model has been loaded."""

    name: str
    memory_bytes: int | UnsetType = UNSET
    adapter: AdapterExtras | UnsetType = UNSET
    capabilities: list[str] | UnsetType = UNSET
    kv_cache_bytes: int | UnsetType = UNSET
    kv_cache_dtype: str | UnsetType = UNSET
    system_fingerprint: str | UnsetType = UNSET
    dtype: str | UnsetType = UNSET
    device: str | UnsetType = UNSET
    load_format: str | UnsetType = UNSET
    weight_bytes: int | UnsetType = UNSET
    adapter_memory_bytes: int | UnsetType = UNSET
    weight_formats: dict[str, int] | UnsetType = UNSET
    default_sampling_params: dict[str, float] | UnsetType = UNSET
    quality: ModelQuality | UnsetType | None = UNSET


class LoadStatus(msgspec.Struct):
    """The state of a model, in the shape of llama-server's router."""

    value: Literal["unloaded", "loading", "loaded", "unloading", "failed"]


class ModelCard(msgspec.Struct):
    """A served model or adapter. Fields that are not known until the model is loaded are null."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None  # the model of an adapter
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
    """The state of the server. `models` is present only with several models or on-demand loading; reason, stage and
    progress only if the status is not ok."""

    status: str
    models: list[ModelLoad] | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    stage: str | UnsetType | None = UNSET
    progress: float | UnsetType | None = UNSET


class DrainState(msgspec.Struct):
    """The state of a drain. drained: whether no request runs and no new one is accepted. unfinished: number of waiting
    and running requests."""

    status: str
    drained: bool
    unfinished: int


class InputTokens(msgspec.Struct):
    """The number of tokens of a prompt, in the shape of Anthropic's API."""

    input_tokens: int


class ResponseInputTokens(msgspec.Struct):
    """The number of tokens of a prompt, in the shape of the Responses API."""

    object: Literal["response.input_tokens"]
    input_tokens: int


class InfillAnswer(msgspec.Struct, kw_only=True):
    """A whole answer, or the last event of a stream, in llama-server's shape. `response_fields` selects fields."""

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
    """An event of a stream of /infill, except the last one."""

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
    """A page of a list of response or conversation items."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


class Deleted(msgspec.Struct):
    id: str
    object: Literal["conversation.deleted", "response", "stream", "file"]
    deleted: bool


class ListPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of a list. first_id and last_id are the ids of the first and last objects in `data`."""

    object: Literal["list"] = "list"
    first_id: str | None
    last_id: str | None
    has_more: bool
    data: list[Any]

    @classmethod
    def of(cls, data: Sequence[Any], *, has_more: bool) -> Self:
        """Return a page with the objects of `data`, which must have an `id`."""
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return cls(data=list(data), first_id=first, last_id=last, has_more=has_more)
