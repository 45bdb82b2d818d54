"""GET /v1/models: the ids that this server answers to."""

import datetime
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.responses import JSONResponse

from engine.errors import EngineUnavailable
from engine.protocol import EngineInfo
from server.context import ServerContext
from server.http.body import Context

router = APIRouter(tags=["Models"])


@router.api_route("/v1/models", methods=["GET", "HEAD"])
async def list_models(context: Context) -> JSONResponse:
    """List the names that the model is served under to this caller."""
    names = context.callers_models
    cards = [_card(name, context) for name in names]
    first, last = (names[0], names[-1]) if names else (None, None)
    page = {"has_more": False, "first_id": first, "last_id": last}  # as Anthropic's clients read it
    return JSONResponse({"object": "list", "data": cards, **page})


@router.api_route("/v1/models/{name:path}", methods=["GET", "HEAD"])  # names of models may hold '/'
async def get_model(name: str, context: Context) -> JSONResponse:
    """Describe the model of one name."""
    context.check_model(name)
    return JSONResponse(_card(name, context))


def _card(name: str, context: ServerContext) -> dict[str, Any]:
    try:
        info = context.client.info
    except EngineUnavailable:  # much is chosen while the model loads
        info = None
    return {
        "id": name,
        "object": "model",
        "created": context.created_s,
        "owned_by": "headrace",
        "root": context.model_root,
        "parent": None,
        "max_model_len": None if info is None else info.max_model_len,
        **_anthropic_fields(name, context, info),
        "headrace": None if info is None else _own_fields(info),
    }


def _anthropic_fields(name: str, context: ServerContext, info: EngineInfo | None) -> dict[str, Any]:
    """What a card of Anthropic's has beside the id; clients of either kind skip the other's fields."""
    created = datetime.datetime.fromtimestamp(context.created_s, datetime.UTC)
    max_tokens = None if info is None else info.max_model_len
    return {
        "type": "model",
        "display_name": name,
        "created_at": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
        "max_input_tokens": max_tokens,
        "max_tokens": max_tokens,
    }


def _own_fields(info: EngineInfo) -> dict[str, Any]:
    """What OpenAI's and vLLM's cards have no place for."""
    quality = None
    if info.quality is not None:
        quality = {**msgspec.structs.asdict(info.quality), "perplexity_increase": info.quality.loss}
    return {
        "dtype": info.dtype,
        "device": info.device,
        "weight_bytes": info.weight_bytes,
        "weight_formats": info.weight_formats,
        "quality": quality,
    }
