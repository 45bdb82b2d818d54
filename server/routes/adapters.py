"""POST /v1/load_lora_adapter and /v1/unload_lora_adapter, DELETE /v1/models/NAME: add and remove LoRA adapters."""

from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, PlainTextResponse

from engine.errors import InvalidRequest
from server.context import ServerContext
from server.errors import AdapterNotFound
from server.finetuning.jobs.folders import delete_adapter
from server.finetuning.jobs.record import FinetuningRecord
from server.http.body import Context, Json, ignored_body
from server.http.disconnect import until_disconnect
from server.http.operators import OPERATORS_ONLY, require_operator
from server.schemas.base import quote
from server.schemas.operations import LoadAdapterRequest, UnloadAdapterRequest
from server.served.adapter_dir import OutsideFolder, adapters_in, resolve_inside

router = APIRouter(tags=["Models"])

_MAX_LISTED = 10  # adapters in an error


@router.post("/v1/load_lora_adapter", dependencies=[OPERATORS_ONLY])
async def load_lora_adapter(request: Request, context: Context, body: Json[LoadAdapterRequest]) -> PlainTextResponse:
    """Load a LoRA adapter from below --adapter-dir, and serve it under the given name."""
    context.drain.check()
    headers = ignored_body(body, context)
    models = context.models
    known = models.adapters.get(body.lora_name)
    model = models.base_model(body.base_model_name or (None if known is None else known.base_name))
    if not body.lora_name:
        raise InvalidRequest("lora_name is empty; give the adapter a name", param="lora_name")
    if models.is_model_name(body.lora_name):
        raise InvalidRequest(
            f"lora_name is {quote(body.lora_name)}, which is a model of this server; give the adapter another name",
            param="lora_name",
        )
    path = _path(body.lora_path, context)
    loading = models.adapters.load(body.lora_name, str(path), model, in_place=body.load_inplace)
    await until_disconnect(loading, request.receive)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.", headers=headers)


@router.post("/v1/unload_lora_adapter", dependencies=[OPERATORS_ONLY])
async def unload_lora_adapter(context: Context, body: Json[UnloadAdapterRequest]) -> PlainTextResponse:
    """Stop serving a LoRA adapter. Running requests keep using it."""
    headers = ignored_body(body, context)
    if context.models.adapters.get(body.lora_name) is None:
        raise AdapterNotFound(
            f"The lora adapter {quote(body.lora_name)} cannot be found. GET /v1/models lists those that are served."
        )
    _remove(body.lora_name, context)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.", headers=headers)


@router.delete("/v1/models/{name:path}")
async def delete_model(request: Request, name: str, context: Context) -> JSONResponse:
    """Stop serving a LoRA adapter. A fine-tuning job's key may do this to its adapters, whose files are deleted."""

    def check(record: FinetuningRecord) -> None:
        if request.state.owner != record.owner:
            require_operator(request.scope)

    if not await delete_adapter(context, name, check):
        require_operator(request.scope)
        if context.models.is_model_name(name):
            raise InvalidRequest(
                f"the model {quote(name)} is not an adapter; only adapters can be deleted", param="model"
            )
        _remove(name, context)
    return JSONResponse({"id": name, "object": "model", "deleted": True})


def _remove(name: str, context: ServerContext) -> None:
    """Stop serving an adapter. Raises ModelNotFound if no adapter has this name."""
    adapter = context.models.adapters.current(name)
    context.models.adapters.remove(name, context.models.base_model(adapter.base_name))


def _path(given: str, context: ServerContext) -> Path:
    """Return the path of the adapter's folder. Raises InvalidRequest unless it exists and is below --adapter-dir, or is
    a folder of --lora-modules."""
    lora = context.config.lora
    if given in (named := [module.path for module in lora.modules]):
        return Path(given)
    if lora.adapter_dir is None:
        known = f", or load a folder of --lora-modules again ({', '.join(map(quote, named))})" if named else ""
        raise InvalidRequest(
            f"lora_path is {quote(given)}, and this server loads no new adapters while it runs; start it with "
            f"--adapter-dir, the folder that they are in{known}",
            param="lora_path",
        )
    folder = Path(lora.adapter_dir)
    try:
        path = resolve_inside(folder, given)
    except OutsideFolder:
        raise InvalidRequest(
            f"lora_path is {quote(given)}; it must be a readable path below the server's --adapter-dir, with all its "
            f"files{_listed(folder)}",
            param="lora_path",
        ) from None
    if not path.exists():
        raise InvalidRequest(
            f"lora_path is {quote(given)}, which does not exist on the server{_listed(folder)}", param="lora_path"
        )
    return path


def _listed(folder: Path) -> str:
    """Return the end of an error that lists the adapters in the folder; empty if there are none."""
    if not (names := adapters_in(folder)):
        return ""
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return f"; the folder has {', '.join(map(quote, names[:_MAX_LISTED]))}{more}"
