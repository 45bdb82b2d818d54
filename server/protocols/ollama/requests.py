"""Translation of Ollama's requests to chats, completions and embeddings."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from engine.errors import InvalidRequest, UnsupportedParameter
from engine.protocol import EngineInfo
from server.chat.content import ChatMessage, text_parts
from server.chat.openai_fields import offered_tools
from server.chat.request import Chat, ChatRequest, ClientPaths, chat_request
from server.protocols.ollama.loading import keep_alive_s
from server.protocols.ollama.messages import messages_with_ids
from server.protocols.ollama.options import OPTION_NAMES, option_fields, other_options
from server.schemas.base import validate
from server.schemas.chat import ToolFields
from server.schemas.completions import CompletionRequest
from server.schemas.ollama import (
    OllamaChatRequest,
    OllamaEmbeddingsRequest,
    OllamaEmbedRequest,
    OllamaGenerateRequest,
    OllamaRequest,
)
from server.schemas.pooling import EmbeddingRequest
from server.text_model import ChatModel

# What Ollama's clients call the fields of a chat.
FIELD_NAMES: Mapping[str, str] = {**OPTION_NAMES, "guided_json": "format", "reasoning_effort": "think"}
GENERATE_NAMES: Mapping[str, str] = {**FIELD_NAMES, "messages": "prompt"}

_LEVELS = {"low": "low", "medium": "medium", "high": "high", "max": "xhigh"}


def is_load(body: OllamaChatRequest | OllamaGenerateRequest) -> bool:
    """Whether the request has no prompt, and only loads or unloads the model."""
    if isinstance(body, OllamaChatRequest):
        return not body.messages
    return not body.prompt and not body.suffix


def is_unload(body: OllamaChatRequest | OllamaGenerateRequest) -> bool:
    """Whether the request has no prompt and a keep_alive of 0, and only unloads the model."""
    return is_load(body) and body.keep_alive is not None and keep_alive_s(body.keep_alive) == 0


def unhonored_fields(body: OllamaRequest, info: EngineInfo) -> dict[str, Any]:
    """Return the untranslated fields by path, for `ignored_parameters`."""
    given = {"keep_alive": body.keep_alive, "truncate": body.truncate, "shift": body.shift}
    return {**body.extra, **given, **other_options(body.options or {}, info.max_model_len)}


def translate_chat(body: OllamaChatRequest, model: str, chat: ChatModel | None) -> ChatRequest:
    """Translate an /api/chat request. model: the served name. Raises InvalidRequest with the client's field names."""
    messages = messages_with_ids(body.messages or [])
    with ClientPaths(FIELD_NAMES).in_errors():
        tools = validate(ToolFields, {"tools": [{"type": "function", **tool} for tool in body.tools or []] or None})
    return _chat(body, model, chat, messages, tools, FIELD_NAMES)


def translate_generation(
    body: OllamaGenerateRequest, model: str, chat: ChatModel | None
) -> ChatRequest | CompletionRequest:
    """Translate an /api/generate request to a chat of one message; or to a completion, if its prompt is raw or has a
    suffix, or the model has no chat template.

    model: the served name. Raises InvalidRequest with the client's names of fields.
    """
    if body.raw or body.suffix or chat is None:
        with ClientPaths(GENERATE_NAMES).in_errors():
            return _completion(body, _fields(body, model))
    system = [ChatMessage("system", text_parts(body.system))] if body.system else []
    messages = [*system, ChatMessage("user", text_parts(body.prompt or ""))]
    return _chat(body, model, chat, messages, ToolFields(), GENERATE_NAMES)


def _chat(
    body: OllamaRequest,
    model: str,
    chat: ChatModel | None,
    messages: Sequence[ChatMessage],
    tools: ToolFields,
    names: Mapping[str, str],
) -> ChatRequest:
    with ClientPaths(names).in_errors():
        options = {**_fields(body, model), **_thinking(body, chat)}
        options |= {"logprobs": body.logprobs, "top_logprobs": body.top_logprobs}
    request = chat_request(Chat(messages, offered_tools(tools)), options, names)
    return replace(request, extra={**request.extra, **tools.extra}, passed_on={**request.passed_on, **tools.passed_on})


def _completion(body: OllamaGenerateRequest, fields: dict[str, Any]) -> CompletionRequest:
    for name, value in (("system", body.system), ("think", body.think)):
        if value:
            raise UnsupportedParameter(
                f"{name} needs the model's chat template, which a raw prompt, a suffix and a model without one do not "
                "go through; leave it out",
                param=name,
            )
    fields["prompt"] = body.prompt or ""
    if body.suffix:
        fields["suffix"] = body.suffix
    if body.logprobs:
        fields["logprobs"] = body.top_logprobs or 0
    return validate(CompletionRequest, fields)


def _fields(body: OllamaRequest, model: str) -> dict[str, Any]:
    """Return the fields that chats and completions have in common."""
    fields: dict[str, Any] = {**option_fields(body.options or {}), "model": model}
    if body.format == "json":
        fields["guided_json"] = {"type": "object"}
    elif body.format:
        fields["guided_json"] = body.format
    return fields


def _thinking(body: OllamaRequest, chat: ChatModel | None) -> dict[str, Any]:
    if body.think is None or chat is None:
        return {}
    if chat.reasoning is None:
        if body.think is False:
            return {}
        raise InvalidRequest(
            f"think is given, and the model {body.model!r} does not think; leave it out", param="think"
        )
    if body.think is True:
        return {"chat_template_kwargs": dict.fromkeys(chat.effort.switches, True)}
    return {"reasoning_effort": "none" if body.think is False else _LEVELS[body.think]}


def translate_embed(body: OllamaEmbedRequest, model: str) -> EmbeddingRequest:
    """Translate an /api/embed request. Inputs that are too long are truncated, unless `truncate` is false. Vectors are
    normalized, as Ollama's are.

    model: the served name. Raises InvalidRequest.
    """
    fields: dict[str, Any] = {"model": model, "input": body.input, "normalize": True, "dimensions": body.dimensions}
    if body.truncate is not False:
        fields["truncate_prompt_tokens"] = -1
    return validate(EmbeddingRequest, fields)


def translate_embeddings(body: OllamaEmbeddingsRequest, model: str) -> EmbeddingRequest:
    """Translate a request to the older /api/embeddings, with the model's own normalization. Raises InvalidRequest."""
    return validate(EmbeddingRequest, {"model": model, "input": body.prompt or "", "truncate_prompt_tokens": -1})


def unhonored_embed_fields(body: OllamaEmbedRequest | OllamaEmbeddingsRequest, max_tokens: int) -> dict[str, Any]:
    """Return the untranslated fields by path, for `ignored_parameters`.

    Leaves out a num_ctx that equals the model's limit.
    """
    options = {
        f"options.{name}": value
        for name, value in (body.options or {}).items()
        if not (name == "num_ctx" and value == max_tokens)
    }
    return {**body.extra, "keep_alive": body.keep_alive, **options}
