"""Bodies of Ollama's endpoints. Fields that become chat fields unchanged are validated by the chat's schema."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator
from pydantic_core import PydanticCustomError

from engine.errors import InvalidRequest
from server.schemas.base import MAX_MESSAGES, TEXT_ONLY, UNSUPPORTED, StrictModel, quote

_MAX_DURATION = 32  # characters of a keep_alive


def _no_images(images: Any) -> Any:
    if images is None or images == []:
        return None
    raise PydanticCustomError(UNSUPPORTED, TEXT_ONLY)


def _format(value: Any) -> Any:
    if value is None or isinstance(value, dict) or value in ("", "json"):
        return value
    raise PydanticCustomError("format", 'it must be "json" or a JSON schema')


def _think(value: Any) -> Any:
    if value is None or isinstance(value, bool) or value in ("low", "medium", "high", "max"):
        return value
    raise PydanticCustomError("think", "it must be true, false, low, medium, high or max")


def _keep_alive(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _MAX_DURATION:
        raise PydanticCustomError("keep_alive", f"it must have at most {_MAX_DURATION} characters")
    if value is None or (isinstance(value, int | float | str) and not isinstance(value, bool)):
        return value
    raise PydanticCustomError("keep_alive", 'it must be a number of seconds or a duration such as "5m"')


NoImages = Annotated[list[str] | None, BeforeValidator(_no_images)]
Format = Annotated[Literal["", "json"] | dict[str, Any] | None, BeforeValidator(_format)]
Think = Annotated[bool | Literal["low", "medium", "high", "max"] | None, BeforeValidator(_think)]
KeepAlive = Annotated[int | float | str | None, BeforeValidator(_keep_alive)]


class OllamaCalledFunction(StrictModel):
    name: str
    arguments: dict[str, Any] | None = None


class OllamaToolCall(StrictModel):
    id: str | None = None
    function: OllamaCalledFunction


class OllamaMessage(StrictModel):
    """A message. Missing content counts as empty."""

    role: str
    content: str | None = None
    thinking: str | None = None
    images: NoImages = None
    tool_calls: list[OllamaToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class OllamaRequest(StrictModel):
    """The fields that POST /api/chat and /api/generate share. `options` are validated elsewhere, each by its name."""

    model: Annotated[str, Field(min_length=1)]
    stream: bool | None = None  # true unless it is false
    format: Format = None
    options: dict[str, Any] | None = None
    think: Think = None
    keep_alive: KeepAlive = None
    truncate: bool | None = None
    shift: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0)] | None = None

    @property
    def is_streamed(self) -> bool:
        return self.stream is not False


class OllamaChatRequest(OllamaRequest):
    """The body of POST /api/chat. Without messages, the request only loads the model."""

    messages: Annotated[list[OllamaMessage], Field(fail_fast=True, max_length=MAX_MESSAGES)] | None = None
    tools: list[dict[str, Any]] | None = None


class OllamaGenerateRequest(OllamaRequest):
    """The body of POST /api/generate. Without a prompt, the request only loads the model."""

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    raw: bool | None = None
    images: NoImages = None


def _inputs(value: Any) -> list[str]:
    """Convert the `input` of /api/embed to a list of texts, which is empty for "" and null. Raises InvalidRequest."""
    if value is None or value == "":
        return []
    items = value if isinstance(value, list) else [value]
    for number, item in enumerate(items):
        if not isinstance(item, str):
            path = f"input[{number}]" if items is value else "input"
            raise InvalidRequest(f"{path} is {quote(item)}; it must be a string", param=path)
    return items


class OllamaEmbedRequest(StrictModel):
    """The body of POST /api/embed. Without an input, the request only loads the model."""

    model: Annotated[str, Field(min_length=1)]
    input: Annotated[
        list[str], PlainValidator(_inputs, json_schema_input_type=str | list[str] | None), Field(default_factory=list)
    ]
    truncate: bool | None = None  # true unless it is false
    dimensions: Annotated[int, Field(ge=1)] | None = None
    options: dict[str, Any] | None = None
    keep_alive: KeepAlive = None


class OllamaEmbeddingsRequest(StrictModel):
    """The body of POST /api/embeddings, which /api/embed replaces. Without a prompt, the request only loads the
    model."""

    model: Annotated[str, Field(min_length=1)]
    prompt: str | None = None
    options: dict[str, Any] | None = None
    keep_alive: KeepAlive = None


class OllamaPullRequest(StrictModel):
    """The body of POST /api/pull. `name` is the old name of `model`."""

    model: str | None = None
    name: str | None = None
    stream: bool | None = None  # true unless it is false
    insecure: Literal[False] | None = None  # hashes are always verified


class OllamaShowRequest(StrictModel):
    """The body of POST /api/show. `name` is the old name of `model`."""

    model: str | None = None
    name: str | None = None
    verbose: bool | None = None
