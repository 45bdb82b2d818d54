"""POST /api/chat and /api/generate, in Ollama's protocol."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import msgspec

from server.chat.request import ClientPaths
from server.endpoints.binding.endpoint import Capability, Endpoint, EndpointRequest
from server.endpoints.binding.work import FinishedWork, GenerationWork, Work
from server.generation.params.chat import chat_params
from server.generation.params.completions import completion_params
from server.generation.params.generation_params import GenerationParams
from server.openapi.operation import JSON, LINES
from server.protocols.ollama.formatter import AnswerWriter, OllamaFormatter, Part, chat_answer, generate_answer
from server.protocols.ollama.loading import accept_fields, check_keep_alive, follows_keep_alive, model_of
from server.protocols.ollama.options import output_limit
from server.protocols.ollama.requests import (
    GENERATE_NAMES,
    is_load,
    is_unload,
    translate_chat,
    translate_generation,
    unhonored_fields,
)
from server.schemas.completions import CompletionRequest
from server.schemas.ollama import OllamaChatRequest, OllamaGenerateRequest, OllamaRequest
from server.schemas.ollama_answers import OllamaAnswer, OllamaChatAnswer, OllamaGenerateAnswer
from server.schemas.parameters import ignored_header
from server.served.model import ServedModel
from server.text.workers import ITEM_SIZE

OllamaBody = OllamaChatRequest | OllamaGenerateRequest


async def _check(body: OllamaBody, _request: EndpointRequest) -> None:
    output_limit(body.options or {})
    check_keep_alive(body.keep_alive)


def _needs_model(body: OllamaBody, model: ServedModel) -> bool:
    return not (is_unload(body) and follows_keep_alive(model))


async def _prepare(
    body: Any,
    request: EndpointRequest,
    *,
    write: AnswerWriter,
    params_of: Callable[[Any, str, EndpointRequest], Awaitable[tuple[GenerationParams, ClientPaths]]],
) -> Work:
    """Prepare a generation, or load or unload the model. params_of: gets the body and the model's served name."""
    await _check(body, request)
    model = request.model
    if not _needs_model(body, model):
        return _unloading(body, model, write)
    model.check_admission()
    name, ignored = accept_fields(body, model, unhonored_fields(body, model.client.info))
    if is_load(body):
        return FinishedWork(_done(body, write, "load"), ignored_header(ignored))
    async with request.preparing():
        params, paths = await params_of(body, name, request)
    ignored += [paths[path] for path in params.ignored]
    limit = output_limit(body.options or {})
    if limit is not None:
        sampling = params.sampling  # limited only by the context
        sampling = msgspec.structs.replace(sampling, max_tokens=min(limit, sampling.max_tokens))
        params = replace(params, sampling=sampling)
    formatter = OllamaFormatter(
        write, body.model, params.tokenizer, request.arrival_s, has_logprobs=bool(body.logprobs)
    )
    return GenerationWork(model, params, formatter, ignored_header(ignored), is_stream=body.is_streamed)


def _unloading(body: OllamaRequest, model: ServedModel, write: AnswerWriter) -> FinishedWork:
    """Unload the model as soon as its requests have finished. Raises EngineUnavailable if the server is draining."""
    assert model.loader is not None
    model.drain.check()
    model.loader.set_keep_alive(model.base_name, 0.0)
    return FinishedWork(_done(body, write, "unload"), {})


def _done(body: OllamaRequest, write: AnswerWriter, reason: Literal["load", "unload"]) -> OllamaAnswer:
    answer = write(Part(), body.model, True)
    answer.done_reason = reason
    return answer


async def _chat_params(
    body: OllamaChatRequest, name: str, request: EndpointRequest
) -> tuple[GenerationParams, ClientPaths]:
    model = request.model
    translate = partial(translate_chat, body, name, (await model.text_model()).chat)
    chat = await model.workers.run_unless_short(translate, size=ITEM_SIZE * len(body.messages or []))
    return await chat_params(chat, model, request.arrival_s), chat.paths


async def _generate_params(
    body: OllamaGenerateRequest, name: str, request: EndpointRequest
) -> tuple[GenerationParams, ClientPaths]:
    model = request.model
    translated = translate_generation(body, name, (await model.text_model()).chat)
    if not isinstance(translated, CompletionRequest):
        return await chat_params(translated, model, request.arrival_s), translated.paths
    paths = ClientPaths(GENERATE_NAMES)
    with paths.in_errors():
        return await completion_params(translated, model, request.arrival_s, default_max_tokens=None), paths


OLLAMA_CHAT: Endpoint[Any] = Endpoint(
    path="/api/chat",
    name="ollama_chat",
    summary="Answer a conversation in Ollama's protocol, as a stream unless `stream` is false.",
    tag="Ollama's",
    bodies=(OllamaChatRequest,),
    capability=Capability.GENERATES,
    check=_check,
    model=model_of,
    needs_model=_needs_model,
    prepare=partial(_prepare, write=chat_answer, params_of=_chat_params),
    answers={LINES: OllamaChatAnswer, JSON: OllamaChatAnswer},
    example={
        "model": "MODEL",
        "messages": [{"role": "user", "content": "Why is the sky blue?"}],
        "stream": False,
        "options": {"num_predict": 64},
    },
    always_waits=False,
)
OLLAMA_GENERATE = replace(
    OLLAMA_CHAT,
    path="/api/generate",
    name="ollama_generate",
    summary="Answer a prompt in Ollama's protocol, or continue it with `raw`, as a stream unless `stream` is false.",
    bodies=(OllamaGenerateRequest,),
    prepare=partial(_prepare, write=generate_answer, params_of=_generate_params),
    answers={LINES: OllamaGenerateAnswer, JSON: OllamaGenerateAnswer},
    example={"model": "MODEL", "prompt": "Why is the sky blue?", "stream": False, "options": {"num_predict": 64}},
    span_operation="text_completion",
)
ENDPOINTS = (OLLAMA_CHAT, OLLAMA_GENERATE)
