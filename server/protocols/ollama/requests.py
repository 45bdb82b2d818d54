"""Ollama's requests as chats and completions, so that they go the way of all others."""

from collections.abc import Mapping
from typing import Any

from engine.errors import InvalidRequest, UnsupportedParameter
from engine.protocol import EngineInfo
from server.protocols.field_names import client_names
from server.protocols.ollama.keep_alive import keep_alive_s
from server.protocols.ollama.messages import chat_messages
from server.protocols.ollama.options import OPTION_NAMES, option_fields, other_options
from server.schemas.base import validate
from server.schemas.chat import ChatCompletionRequest
from server.schemas.completions import CompletionRequest
from server.schemas.ollama import OllamaChatRequest, OllamaGenerateRequest, OllamaRequest
from server.text_model import ChatModel

# Chat's fields and what Ollama's clients call them.
FIELD_NAMES: Mapping[str, str] = {**OPTION_NAMES, "guided_json": "format", "reasoning_effort": "think"}
GENERATE_NAMES: Mapping[str, str] = {**FIELD_NAMES, "messages": "prompt"}

_LEVELS = {"low": "low", "medium": "medium", "high": "high", "max": "xhigh"}


def is_load(body: OllamaChatRequest | OllamaGenerateRequest) -> bool:
    """Whether the request asks for nothing but that the model be loaded."""
    if isinstance(body, OllamaChatRequest):
        return not body.messages
    return not body.prompt and not body.suffix


def is_unload(body: OllamaChatRequest | OllamaGenerateRequest) -> bool:
    """Whether the request asks for nothing but that the model be unloaded."""
    return is_load(body) and body.keep_alive is not None and keep_alive_s(body.keep_alive) == 0


def unhonored_fields(body: OllamaRequest, info: EngineInfo) -> dict[str, Any]:
    """What no chat or completion is given, by its path; for `ignored_parameters`."""
    given = {"keep_alive": body.keep_alive, "truncate": body.truncate, "shift": body.shift}
    return {**body.extra, **given, **other_options(body.options or {}, info.max_model_len)}


def chat_of(body: OllamaChatRequest, model: str, chat: ChatModel | None) -> ChatCompletionRequest:
    """model: the served name. Raises InvalidRequest."""
    with client_names(FIELD_NAMES):
        fields = _fields(body, model)
        fields["messages"] = chat_messages(body.messages or [])
        fields["tools"] = [{"type": "function", **tool} for tool in body.tools or []] or None
        fields["top_logprobs"] = body.top_logprobs
        fields["logprobs"] = body.logprobs
        return validate(ChatCompletionRequest, {**fields, **_thinking(body, chat)})


def generation_of(
    body: OllamaGenerateRequest, model: str, chat: ChatModel | None
) -> ChatCompletionRequest | CompletionRequest:
    """A chat of one message, or a completion: of a raw prompt, around a suffix, or by a model without a template.

    model: the served name. Raises InvalidRequest.
    """
    with client_names(GENERATE_NAMES):
        fields = _fields(body, model)
        if body.raw or body.suffix or chat is None:
            return _completion(body, fields)
        messages = [{"role": "system", "content": body.system}] if body.system else []
        fields["messages"] = [*messages, {"role": "user", "content": body.prompt or ""}]
        fields["top_logprobs"] = body.top_logprobs
        fields["logprobs"] = body.logprobs
        return validate(ChatCompletionRequest, {**fields, **_thinking(body, chat)})


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
    """What chats and completions have in common."""
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
