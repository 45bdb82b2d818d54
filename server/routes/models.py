"""GET /v1/models: the ids that this server answers to."""

import datetime
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.responses import JSONResponse

from engine.protocol import EngineInfo
from server.http.body import Context
from server.served.model import ServedModel

router = APIRouter(tags=["Models"])


@router.api_route("/v1/models", methods=["GET", "HEAD"])
async def list_models(context: Context) -> JSONResponse:
    """List the names that models are served under to this caller."""
    names = context.models.callers_names
    cards = [_card(name, context.models.find(name), context.created_s) for name in names]
    first, last = (names[0], names[-1]) if names else (None, None)
    page = {"has_more": False, "first_id": first, "last_id": last}  # as Anthropic's clients read it
    return JSONResponse({"object": "list", "data": cards, **page})


@router.api_route("/v1/models/{name:path}", methods=["GET", "HEAD"])  # names of models may hold '/'
async def get_model(name: str, context: Context) -> JSONResponse:
    """Describe the model of one name."""
    return JSONResponse(_card(name, context.models.find(name), context.created_s))


def _card(name: str, model: ServedModel, created_s: int) -> dict[str, Any]:
    info = model.info
    return {
        "id": name,
        "object": "model",
        "created": created_s,
        "owned_by": "headrace",
        "root": model.root,
        "parent": None,
        "max_model_len": None if info is None else info.max_model_len,
        **_anthropic_fields(name, created_s, info),
        "headrace": None if info is None else _own_fields(info),
    }


def _anthropic_fields(name: str, created_s: int, info: EngineInfo | None) -> dict[str, Any]:
    """What a card of Anthropic's has beside the id; clients of either kind skip the other's fields."""
    created = datetime.datetime.fromtimestamp(created_s, datetime.UTC)
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
