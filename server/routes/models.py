"""/v1/models: the served models and adapters, and operators' requests to load and unload models."""

import datetime
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from engine.errors import InvalidRequest
from engine.protocol import EngineInfo
from server.context import ServerContext
from server.decisions.calibrating import calibration_fields, known_calibration
from server.http.body import Context
from server.http.disconnect import until_disconnect
from server.http.model_state import model_state
from server.http.operators import OPERATORS_ONLY
from server.schemas.sampling import sampling_defaults
from server.served.model import ServedModel
from server.served.model_loader import ModelLoader

router = APIRouter(tags=["Models"])


@router.api_route("/v1/models", methods=["GET", "HEAD"])
async def list_models(context: Context) -> JSONResponse:
    """List the models that this caller may use, with all their names."""
    names = context.models.visible_names
    cards = [await _card(name, context.models.find(name), context.created_s) for name in names]
    first, last = (names[0], names[-1]) if names else (None, None)
    page = {"has_more": False, "first_id": first, "last_id": last}  # for Anthropic's clients
    return JSONResponse({"object": "list", "data": cards, **page})


@router.api_route("/v1/models/{name:path}", methods=["GET", "HEAD"])  # names of models may hold '/'
async def get_model(name: str, context: Context) -> JSONResponse:
    """Describe a model by its name."""
    return JSONResponse(await _card(name, context.models.find(name), context.created_s))


@router.post("/v1/models/{name:path}/load", dependencies=[OPERATORS_ONLY])
async def load_model(request: Request, name: str, context: Context) -> JSONResponse:
    """Load a model, and respond when it is loaded. Other models are unloaded if memory is short."""
    model, loader = _changeable(name, context)
    await until_disconnect(loader.ensure_loaded(model.base_name), request.receive)
    return JSONResponse(await _card(name, model, context.created_s))


@router.post("/v1/models/{name:path}/unload", dependencies=[OPERATORS_ONLY])
async def unload_model(request: Request, name: str, context: Context) -> JSONResponse:
    """Unload a model when its requests are finished, and respond then. The next request loads it again."""
    model, loader = _changeable(name, context)
    await until_disconnect(loader.ensure_unloaded(model.base_name), request.receive)
    return JSONResponse(await _card(name, model, context.created_s))


def _changeable(name: str, context: ServerContext) -> tuple[ServedModel, ModelLoader]:
    """Return the model and its loader. Raises EngineUnavailable while the server drains, ModelNotFound, and
    InvalidRequest for a model that always stays loaded."""
    context.drain.check()
    model = context.models.find(name)
    if model.loader is None:
        if len(context.models) > 1 or context.config.models.loads_on_demand:
            model.check_engine()  # whose error says how far the start is
        raise InvalidRequest(
            "this server has one model, which stays loaded; models come and go with --load-on-demand or --idle-unload"
        )
    return model, model.loader


async def _card(name: str, model: ServedModel, created_s: int) -> dict[str, Any]:
    info, state = model.info, model_state(model)
    if model.adapter is not None:
        created_s = model.adapter.created_s
    return {
        "id": name,
        "object": "model",
        "created": created_s,
        "owned_by": "headrace",
        "root": model.root,
        "parent": None if model.adapter is None else model.base_name,
        "max_model_len": None if info is None else info.max_model_len,
        **_anthropic_fields(name, created_s, info),
        "status": {"value": state["state"]},  # in the form of llama-server's router
        "headrace": {
            "name": model.base_name,
            **state,
            **_own_fields(model, info),
            **calibration_fields(await known_calibration(model)),
        },
    }


def _anthropic_fields(name: str, created_s: int, info: EngineInfo | None) -> dict[str, Any]:
    """Return the fields of a model in Anthropic's API, which OpenAI's clients ignore."""
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


def _own_fields(model: ServedModel, info: EngineInfo | None) -> dict[str, Any]:
    """Return this server's own fields of a model card. Most are known only once the model has been loaded."""
    needs = {} if model.loadable is None else {"memory_bytes": model.loadable.need_bytes}
    if info is None:
        return {**needs, "capabilities": model.capabilities} if model.capabilities else needs
    quality = None
    if info.quality is not None:
        quality = {**msgspec.structs.asdict(info.quality), "perplexity_increase": info.quality.loss}
    return {
        **needs,
        **_adapter_fields(model),
        "capabilities": model.capabilities,
        "kv_cache_bytes": info.kv_bytes,
        **({"kv_cache_dtype": info.kv_cache_dtype} if info.kv_cache_dtype else {}),
        **({"system_fingerprint": info.system_fingerprint} if info.system_fingerprint else {}),
        "dtype": info.dtype,
        "device": info.device,
        **({"load_format": info.load_format} if info.load_format != "auto" else {}),
        "weight_bytes": info.weight_bytes,
        **({"adapter_memory_bytes": info.adapter_bytes} if info.adapter_bytes else {}),
        "weight_formats": info.weight_formats,
        **({"default_sampling_params": sampling_defaults(info)} if info.generates else {}),
        "quality": quality,
    }


def _adapter_fields(model: ServedModel) -> dict[str, Any]:
    if model.adapter is None or model.adapter.info is None:
        return {}
    info = model.adapter.info
    return {"adapter": {"rank": info.rank, "size_bytes": info.num_bytes, "trained_on": info.base}}
