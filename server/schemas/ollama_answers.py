"""Responses of Ollama's endpoints, as msgspec structs. Times are in RFC 3339, durations in nanoseconds."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from server.schemas.answers import ChatLogprob
from server.schemas.pooling_answers import Numbers

# The model's own text, with its order of names and numbers of any size
Arguments = Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"type": "object"})]
DoneReason = Literal["stop", "length", "load", "unload"]


class OllamaFunction(msgspec.Struct):
    index: int
    name: str
    arguments: Arguments


class OllamaAnswerCall(msgspec.Struct):
    id: str
    function: OllamaFunction


class OllamaAnswerMessage(msgspec.Struct):
    role: Literal["assistant"] = "assistant"
    content: str = ""
    thinking: str | UnsetType = UNSET
    tool_calls: list[OllamaAnswerCall] | UnsetType = UNSET


class OllamaAnswer(msgspec.Struct, kw_only=True):
    """A whole answer, or one line of a stream. Only the last line has counts and durations."""

    model: str
    created_at: str
    done: bool
    done_reason: DoneReason | UnsetType = UNSET
    logprobs: list[ChatLogprob] | UnsetType = UNSET
    total_duration: int | UnsetType = UNSET  # since the request's arrival
    load_duration: int | UnsetType = UNSET  # 0: the model was loaded when the server started
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET


class OllamaChatAnswer(OllamaAnswer, kw_only=True):
    message: OllamaAnswerMessage


class OllamaGenerateAnswer(OllamaAnswer, kw_only=True):
    response: str
    thinking: str | UnsetType = UNSET


class OllamaDetails(msgspec.Struct, kw_only=True):
    parent_model: str = ""
    format: str | UnsetType = UNSET
    family: str
    families: list[str]
    quantization_level: str | UnsetType = UNSET


class OllamaModel(msgspec.Struct, kw_only=True):
    """A served model under one of its names. Fields about the weights are missing until the model is loaded."""

    name: str
    model: str
    modified_at: str  # when the server started
    size: int | UnsetType = UNSET  # bytes of the weights in memory
    digest: str | UnsetType = UNSET  # SHA-256 of the model's properties, not of its weights
    details: OllamaDetails | UnsetType = UNSET


class OllamaModels(msgspec.Struct):
    models: list[OllamaModel]


class OllamaRunningModel(msgspec.Struct, kw_only=True):
    name: str
    model: str
    size: int
    size_vram: int  # bytes of the size that are on a GPU
    digest: str
    details: OllamaDetails
    expires_at: str
    context_length: int


class OllamaRunningModels(msgspec.Struct):
    models: list[OllamaRunningModel]


class OllamaShown(msgspec.Struct, kw_only=True):
    parameters: str  # a line for each default of the checkpoint
    template: str | UnsetType = UNSET  # in Jinja, not in Go's language like Ollama's
    details: OllamaDetails
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str


class OllamaPullStatus(msgspec.Struct, kw_only=True):
    """A line of a pull. The last one has the status "success". digest: of the pull, not of a file, since all files of a
    model are counted as one. total, completed: bytes."""

    status: str
    digest: str | UnsetType = UNSET
    total: int | UnsetType = UNSET
    completed: int | UnsetType = UNSET


class OllamaVersion(msgspec.Struct):
    version: str  # version of Ollama's API
    headrace: str


class OllamaEmbedded(msgspec.Struct, kw_only=True):
    model: str
    embeddings: list[Numbers]
    total_duration: int  # since the request's arrival
    load_duration: int  # until the model was loaded
    prompt_eval_count: int


class OllamaEmbedding(msgspec.Struct):
    embedding: Numbers
