"""POST /api/chat and /api/generate, in Ollama's protocol."""

from dataclasses import replace
from functools import partial

import msgspec

from server.chat.request import ClientPaths
from server.endpoints.binding.endpoint import Capability, Endpoint, EndpointRequest
from server.endpoints.binding.work import FinishedWork, GenerationWork, Work
from server.generation.params.chat import chat_params
from server.generation.params.completions import completion_params
from server.generation.params.generation_params import GenerationParams
from server.openapi.operation import JSON, LINES
from server.protocols.ollama.formatter import AnswerWriter, OllamaFormatter, Part, chat_answer, generate_answer
from server.protocols.ollama.loading import accept_fields, check_keep_alive, follows_keep_alive, ollama_model
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
from server.schemas.ollama_answers import OllamaChatAnswer, OllamaGenerateAnswer
from server.schemas.parameters import ignored_header
from server.served.model import ServedModel
from server.served.models import ServedModels
from server.text.workers import ITEM_SIZE

OllamaBody = OllamaChatRequest | OllamaGenerateRequest


async def _check(body: OllamaBody, _request: EndpointRequest) -> None:
    output_limit(body.options or {})
    check_keep_alive(body.keep_alive)


def _model(body: OllamaBody, models: ServedModels) -> ServedModel:
    return ollama_model(body.model, models)


def _needs_model(body: OllamaBody, model: ServedModel) -> bool:
    return not (is_unload(body) and follows_keep_alive(model))


async def _prepare_chat(body: OllamaChatRequest, request: EndpointRequest) -> Work:
    await _check(body, request)
    if not _needs_model(body, request.model):
        return _unloading(body, request.model, chat_answer)
    name, ignored = _accepted(body, request.model)
    if is_load(body):
        return _loaded(body, chat_answer, ignored)
    model = request.model
    async with request.preparing():
        text_model = await model.text_model()
        size = ITEM_SIZE * len(body.messages or [])
        chat = await model.workers.run_unless_short(partial(translate_chat, body, name, text_model.chat), size=size)
        params = await chat_params(chat, model, request.arrival_s)
    ignored += [chat.paths[path] for path in params.ignored]
    return _generating(body, request, params, chat_answer, ignored)


async def _prepare_generate(body: OllamaGenerateRequest, request: EndpointRequest) -> Work:
    await _check(body, request)
    if not _needs_model(body, request.model):
        return _unloading(body, request.model, generate_answer)
    name, ignored = _accepted(body, request.model)
    if is_load(body):
        return _loaded(body, generate_answer, ignored)
    model = request.model
    async with request.preparing():
        text_model = await model.text_model()
        translated = translate_generation(body, name, text_model.chat)
        if isinstance(translated, CompletionRequest):
            paths = ClientPaths(GENERATE_NAMES)
            with paths.in_errors():
                params = await completion_params(translated, model, request.arrival_s, default_max_tokens=None)
        else:
            paths = translated.paths
            params = await chat_params(translated, model, request.arrival_s)
    ignored += [paths[path] for path in params.ignored]
    return _generating(body, request, params, generate_answer, ignored)


def _accepted(body: OllamaRequest, model: ServedModel) -> tuple[str, list[str]]:
    """Return the served name and the names of ignored fields. Raises InvalidRequest and EngineUnavailable."""
    model.check_admission()
    return accept_fields(body, model, unhonored_fields(body, model.client.info))


def _unloading(body: OllamaRequest, model: ServedModel, write: AnswerWriter) -> FinishedWork:
    """Unload the model once its requests have ended. Raises EngineUnavailable if the server drains."""
    assert model.loader is not None
    model.drain.check()
    model.loader.set_keep_alive(model.base_name, 0.0)
    done = write(Part(), body.model, True)
    done.done_reason = "unload"
    return FinishedWork(done, {})


def _loaded(body: OllamaRequest, write: AnswerWriter, ignored: list[str]) -> FinishedWork:
    loaded = write(Part(), body.model, True)
    loaded.done_reason = "load"
    return FinishedWork(loaded, ignored_header(ignored))


def _generating(
    body: OllamaRequest, request: EndpointRequest, params: GenerationParams, write: AnswerWriter, ignored: list[str]
) -> GenerationWork:
    limit = output_limit(body.options or {})
    if limit is not None:
        sampling = params.sampling  # limited only by the context
        sampling = msgspec.structs.replace(sampling, max_tokens=min(limit, sampling.max_tokens))
        params = replace(params, sampling=sampling)
    formatter = OllamaFormatter(
        write, body.model, params.tokenizer, request.arrival_s, has_logprobs=bool(body.logprobs)
    )
    return GenerationWork(request.model, params, formatter, ignored_header(ignored), is_stream=body.is_streamed)


OLLAMA_CHAT = Endpoint(
    path="/api/chat",
    name="ollama_chat",
    summary="Answer a conversation in Ollama's protocol, as a stream unless `stream` is false.",
    tag="Ollama's",
    bodies=(OllamaChatRequest,),
    capability=Capability.GENERATES,
    check=_check,
    model=_model,
    needs_model=_needs_model,
    prepare=_prepare_chat,
    answers={LINES: OllamaChatAnswer, JSON: OllamaChatAnswer},
    example={
        "model": "MODEL",
        "messages": [{"role": "user", "content": "Why is the sky blue?"}],
        "stream": False,
        "options": {"num_predict": 64},
    },
    always_waits=False,
)
OLLAMA_GENERATE = Endpoint(
    path="/api/generate",
    name="ollama_generate",
    summary="Answer a prompt in Ollama's protocol, or continue it with `raw`, as a stream unless `stream` is false.",
    tag="Ollama's",
    bodies=(OllamaGenerateRequest,),
    capability=Capability.GENERATES,
    check=_check,
    model=_model,
    needs_model=_needs_model,
    prepare=_prepare_generate,
    answers={LINES: OllamaGenerateAnswer, JSON: OllamaGenerateAnswer},
    example={"model": "MODEL", "prompt": "Why is the sky blue?", "stream": False, "options": {"num_predict": 64}},
    always_waits=False,
    span_operation="text_completion",
)
ENDPOINTS = (OLLAMA_CHAT, OLLAMA_GENERATE)
