"""/api/*: Ollama's API over the same generation as OpenAI's."""

import importlib.metadata
import time
from dataclasses import replace
from functools import partial
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from engine.errors import InvalidRequest
from server.errors import NotServed
from server.generation.chat_params import chat_params
from server.generation.completion_params import completion_params
from server.generation.generation import Generation
from server.generation.params import GenerationParams
from server.http.answer import answer
from server.http.body import Context, json_body
from server.http.models import entered
from server.http.preparing import prepared
from server.protocols.field_names import client_names, client_path
from server.protocols.ollama.formatter import (
    AnswerWriter,
    OllamaFormatter,
    Part,
    chat_answer,
    generate_answer,
)
from server.protocols.ollama.keep_alive import LONGEST_S
from server.protocols.ollama.models import model_card, running_model, shown_model
from server.protocols.ollama.names import served_name
from server.protocols.ollama.options import output_limit
from server.protocols.ollama.requests import (
    FIELD_NAMES,
    GENERATE_NAMES,
    chat_of,
    generation_of,
    is_load,
    is_unload,
    unhonored_fields,
)
from server.routes.ollama_model import check_keep_alive, heeds_keep_alive, keep_loaded, ollama_model
from server.schemas.completions import CompletionRequest
from server.schemas.ollama import OllamaChatRequest, OllamaGenerateRequest, OllamaRequest, OllamaShowRequest
from server.schemas.ollama_answers import OllamaModels, OllamaRunningModels, OllamaVersion
from server.schemas.parameters import OLLAMA_PARAMETERS, ignored_header, ignored_parameters
from server.served.loadable_model import ModelState
from server.served.model import ServedModel
from server.text.workers import ITEM_SIZE

router = APIRouter(tags=["Ollama's"])

# Clients compare it to know what they may use. Log probabilities came with this one; nothing here is newer.
_OLLAMA_VERSION = "0.12.11"

# What Ollama does and this server does not, by method and path.
_NOT_SERVED = {
    ("POST", "/api/pull"): "does not fetch models; it serves the one that it was started with",
    ("POST", "/api/push"): "does not publish models",
    ("POST", "/api/create"): "does not make models; headrace quantize does",
    ("POST", "/api/copy"): "does not copy models; --served-model-name gives the model more names",
    ("DELETE", "/api/delete"): "does not delete models",
    ("POST", "/api/blobs/{digest}"): "takes no files",
}


@router.post("/api/chat")
async def ollama_chat(
    request: Request, context: Context, body: Annotated[OllamaChatRequest, Depends(json_body(OllamaChatRequest))]
) -> Response:
    """Answer a conversation in Ollama's protocol, as a stream unless `stream` is false."""
    model = ollama_model(body.model, context)
    _check_early(body)
    if is_unload(body) and heeds_keep_alive(model):
        return _unloaded(body, model, chat_answer)
    name, ignored = _checked(body, await entered(request, model))
    if is_load(body):
        return _loaded(body, chat_answer, ignored)
    text_model = await model.text_model()
    with client_names(FIELD_NAMES):
        size = ITEM_SIZE * len(body.messages or [])
        chat = await model.workers.run_unless_short(partial(chat_of, body, name, text_model.chat), size=size)
        params = await prepared(request, model, chat_params(chat, model, request.state.arrival_s))
    return await _answer(request, model, body, params, chat_answer, ignored)


@router.post("/api/generate")
async def ollama_generate(
    request: Request,
    context: Context,
    body: Annotated[OllamaGenerateRequest, Depends(json_body(OllamaGenerateRequest))],
) -> Response:
    """Answer a prompt in Ollama's protocol, or continue it with `raw`, as a stream unless `stream` is false."""
    model = ollama_model(body.model, context)
    _check_early(body)
    if is_unload(body) and heeds_keep_alive(model):
        return _unloaded(body, model, generate_answer)
    name, ignored = _checked(body, await entered(request, model))
    if is_load(body):
        return _loaded(body, generate_answer, ignored)
    text_model = await model.text_model()
    with client_names(GENERATE_NAMES):
        asked = generation_of(body, name, text_model.chat)
        if isinstance(asked, CompletionRequest):
            asking = completion_params(asked, model, request.state.arrival_s, default_max_tokens=None)
        else:
            asking = chat_params(asked, model, request.state.arrival_s)
        params = await prepared(request, model, asking)
    return await _answer(request, model, body, params, generate_answer, ignored)


@router.api_route("/api/tags", methods=["GET", "HEAD"])
async def ollama_tags(context: Context) -> Response:
    """List the names of the served models, as Ollama does."""
    models = context.models
    cards = [model_card(name, models.find(name).info, context.created_s) for name in models.visible_names]
    return _json(OllamaModels(cards))


@router.get("/api/ps")
async def ollama_ps(context: Context) -> Response:
    """List the loaded models, as Ollama does."""
    running = [
        running_model(names[0], info, _expires_at(model))
        for model in context.models
        if model.state is ModelState.LOADED and (info := model.info) is not None and (names := model.visible_names)
    ]
    return _json(OllamaRunningModels(running))


@router.post("/api/show")
async def ollama_show(
    request: Request, context: Context, body: Annotated[OllamaShowRequest, Depends(json_body(OllamaShowRequest))]
) -> Response:
    """Describe the model as Ollama does: its template, defaults, context and capabilities."""
    name = body.model or body.name
    if not name:
        raise InvalidRequest("model is missing; it is required", param="model")
    model = ollama_model(name, context)
    if model.info is None:
        await entered(request, model)
        model.check_admission()
    model.drain.check()
    return _json(
        shown_model(model.info or model.client.info, await model.text_model(), model.capabilities, context.created_s)
    )


@router.api_route("/api/version", methods=["GET", "HEAD"])
async def ollama_version() -> Response:
    """Report the version of Ollama that this server is compatible with."""
    return _json(OllamaVersion(_OLLAMA_VERSION, importlib.metadata.version("headrace")))


async def _not_served(request: Request) -> Response:
    """Refuse what Ollama does with its models."""
    path = request.scope["route"].path
    raise NotServed(f"{path} is not served here: this server {_NOT_SERVED[request.method, path]}")


for _method, _path in _NOT_SERVED:
    router.add_api_route(_path, _not_served, methods=[_method], include_in_schema=False)


def _check_early(body: OllamaRequest) -> None:
    """Raise InvalidRequest for what is wrong with any model, before one is loaded for it."""
    output_limit(body.options or {})
    check_keep_alive(body.keep_alive)


def _checked(body: OllamaRequest, model: ServedModel) -> tuple[str, list[str]]:
    """The served name, and the fields that are ignored. Raises InvalidRequest, or EngineUnavailable."""
    model.check_admission()
    unhonored = unhonored_fields(body, model.client.info)
    if keep_loaded(model, body.keep_alive):
        del unhonored["keep_alive"]
    ignored = ignored_parameters(unhonored, strict=model.config.strict_parameters, table=OLLAMA_PARAMETERS)
    return served_name(body.model, model.visible_names), ignored


def _unloaded(body: OllamaRequest, model: ServedModel, write: AnswerWriter) -> Response:
    """The answer to a request that asks for nothing but the model's end, once what runs is over."""
    assert model.loader is not None
    model.drain.check()
    model.loader.set_keep_alive(model.base_name, 0.0)
    done = write(Part(), body.model, True)
    done.done_reason = "unload"
    return _json(done)


def _expires_at(model: ServedModel) -> float | None:
    """When the model is unloaded, in Unix time, unless it is used before; None is never."""
    if model.loadable is None:
        return None
    idle_s = model.loadable.idle_left_s(time.monotonic())
    return None if idle_s is None or idle_s > LONGEST_S else time.time() + idle_s


def _loaded(body: OllamaRequest, write: AnswerWriter, ignored: list[str]) -> Response:
    """The answer to a request that asks for nothing but the model, which is loaded, and stays so."""
    loaded = write(Part(), body.model, True)
    loaded.done_reason = "load"
    return _json(loaded, ignored_header(ignored))


async def _answer(
    request: Request,
    model: ServedModel,
    body: OllamaRequest,
    params: GenerationParams,
    write: AnswerWriter,
    ignored: list[str],
) -> Response:
    limit = output_limit(body.options or {})
    if limit is not None:
        sampling = params.sampling  # which has all that fits the context
        sampling = msgspec.structs.replace(sampling, max_tokens=min(limit, sampling.max_tokens))
        params = replace(params, sampling=sampling)
    formatter = OllamaFormatter(
        write, body.model, params.tokenizer, request.state.arrival_s, has_logprobs=bool(body.logprobs)
    )
    ignored = [*ignored, *(client_path(FIELD_NAMES, path) for path in params.ignored)]
    headers = {**params.headers, **ignored_header(ignored)}
    return await answer(request, Generation(model, params), formatter, stream=body.is_streamed, headers=headers)


def _json(message: msgspec.Struct, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(message), headers=headers, media_type="application/json")
