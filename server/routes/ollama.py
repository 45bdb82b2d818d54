"""GET /api/tags, /api/ps and others: Ollama's routes about models, and errors for its routes that are not supported."""

import importlib.metadata
import time

from fastapi import APIRouter, Request
from starlette.responses import Response

from engine.errors import InvalidRequest
from server.http.body import Context, Json, json_response
from server.http.error_forms import add_refusals
from server.http.models import acquire_model
from server.protocols.ollama.loading import LONGEST_S, ollama_model
from server.protocols.ollama.models import model_card, running_model, shown_model
from server.schemas.ollama import OllamaShowRequest
from server.schemas.ollama_answers import OllamaModels, OllamaRunningModels, OllamaVersion
from server.served.loadable_model import ModelState
from server.served.model import ServedModel

router = APIRouter(tags=["Ollama's"])

# Clients compare it to know which features they may use. This version brought log probabilities, the newest here.
_OLLAMA_VERSION = "0.12.11"

# Operations of Ollama that this server does not have, by method and path.
_NOT_SERVED = {
    ("POST", "/api/push"): "does not publish models",
    ("POST", "/api/create"): "does not make models; headrace quantize does",
    ("POST", "/api/copy"): "does not copy models; --served-model-name gives the model more names",
    ("DELETE", "/api/delete"): "does not delete models",
    ("POST", "/api/blobs/{digest}"): "takes no files",
}
add_refusals(router, {route: f"this server {reason}" for route, reason in _NOT_SERVED.items()})


@router.api_route("/api/tags", methods=["GET", "HEAD"])
async def ollama_tags(context: Context) -> Response:
    """List the names of the served models, in Ollama's shape."""
    models = context.models
    cards = [model_card(name, models.find(name).info, context.created_s) for name in models.visible_names]
    return json_response(OllamaModels(cards))


@router.get("/api/ps")
async def ollama_ps(context: Context) -> Response:
    """List the loaded models, in Ollama's shape."""
    running = [
        running_model(names[0], info, _expires_at(model))
        for model in context.models
        if model.state is ModelState.LOADED and (info := model.info) is not None and (names := model.visible_names)
    ]
    return json_response(OllamaRunningModels(running))


@router.post("/api/show")
async def ollama_show(request: Request, context: Context, body: Json[OllamaShowRequest]) -> Response:
    """Describe a model in Ollama's shape: its template, defaults, context and capabilities."""
    name = body.model or body.name
    if not name:
        raise InvalidRequest("model is missing; it is required", param="model")
    model = ollama_model(name, context.models)
    if model.info is None:
        await acquire_model(request, model)
        model.check_admission()
    model.drain.check()
    return json_response(
        shown_model(model.info or model.client.info, await model.text_model(), model.capabilities, context.created_s)
    )


@router.api_route("/api/version", methods=["GET", "HEAD"])
async def ollama_version() -> Response:
    """Report the version of Ollama that this server is compatible with."""
    return json_response(OllamaVersion(_OLLAMA_VERSION, importlib.metadata.version("headrace")))


def _expires_at(model: ServedModel) -> float | None:
    """Return the Unix time at which the model will be unloaded if it stays idle; None for never."""
    if model.loadable is None:
        return None
    idle_s = model.loadable.idle_left_s(time.monotonic())
    return None if idle_s is None or idle_s > LONGEST_S else time.time() + idle_s
