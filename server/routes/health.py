"""/live, /ready and /health: probes that need no key and answer quickly under any load."""

import time
from collections.abc import Iterable, Sequence

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from engine.client.interface import EngineState
from engine.errors import QueueFull
from server.context import ServerContext
from server.errors import UNAVAILABLE_RETRY_S, ModelNotFound
from server.http.body import Context
from server.http.model_state import model_state
from server.schemas.base import quote
from server.served.loadable_model import ModelState
from server.served.model import UNUSABLE_TEXT, ServedModel

router = APIRouter(tags=["Operations"])

_HUNG_AFTER_S = 60.0  # without progress although there is work, if --engine-hang-timeout is off


@router.api_route("/live", methods=["GET", "HEAD"])
async def live() -> JSONResponse:
    """Return 200 while this process answers. If it does not, restart it."""
    return JSONResponse({"status": "ok"})


@router.api_route("/ready", methods=["GET", "HEAD"])
async def ready(context: Context, request: Request) -> JSONResponse:
    """Return 200 while a model, or the one that `model` names, accepts requests. If not, send traffic elsewhere."""
    context.drain.checked_s = time.monotonic()
    name = request.query_params.get("model")
    models = list(context.models) if name is None else [_model_named(context, name)]
    if (problem := health_problem(context, models)) is not None:
        return problem
    try:
        if name is None:
            context.models.check_queue()
        else:
            models[0].check_queue_if_loaded()
    except QueueFull as error:
        return _unavailable("overloaded", str(error))
    limit = context.config.ready_max_waiting
    num_waiting = sum(model.client.status().num_waiting for model in models)
    if limit is not None and num_waiting > limit:
        return _unavailable("overloaded", f"{num_waiting} waiting, more than {limit} (--ready-max-waiting)")
    return _fine(models)


def _model_named(context: ServerContext, name: str) -> ServedModel:
    """Return the model with this name, whichever keys may use it. Raises ModelNotFound, which lists no names, since the
    caller needs no key; adapters have the readiness of their model, and are not found."""
    if not context.models.is_model_name(name):
        raise ModelNotFound(f"no model of this server is called {quote(name)}")
    return context.models.get_or_default(name)


@router.api_route("/health", methods=["GET", "HEAD"])
async def health(context: Context) -> JSONResponse:
    """Return 200 while the engine is ready, and is idle or makes progress; with several models, while one is served."""
    context.drain.checked_s = time.monotonic()
    return health_problem(context) or _fine(list(context.models))


def _fine(models: Sequence[ServedModel]) -> JSONResponse:
    """Return the response if one of the models is healthy. It names no models, since callers need no key."""
    if len(models) == 1 and models[0].loader is None:
        return JSONResponse({"status": "ok"})
    has_failed = any(model.state is ModelState.FAILED for model in models)
    states = [{**model_state(model), "reason": None} for model in models]
    return JSONResponse({"status": "degraded" if has_failed else "ok", "models": states})


def health_problem(context: ServerContext, models: Iterable[ServedModel] | None = None) -> JSONResponse | None:
    """Return the error response of a server that drains, or has a healthy engine for none of `models` (all by
    default); None if it is healthy."""
    if context.drain.is_active:
        return _unavailable("draining", context.drain.reason, may_retry=True)
    found = [_engine_problem(model, context) for model in (context.models if models is None else models)]
    problems = [problem for problem in found if problem is not None]
    if not problems or (context.models.have_started and len(problems) < len(found)):
        return None
    return next((problem for problem in problems if "retry-after" in problem.headers), problems[0])


def _engine_problem(model: ServedModel, context: ServerContext) -> JSONResponse | None:
    """Return the error response for one model's engine; None if it is healthy. An on-demand model that is not loaded
    counts as healthy, unless it is being loaded again after a failure."""
    comes_and_goes = model.loader is not None and context.models.have_started
    if comes_and_goes and model.state not in (ModelState.LOADED, ModelState.FAILED) and not _is_tried_again(model):
        return None
    status = model.client.status()
    if model.loader is not None and model.state is ModelState.FAILED:
        return _unavailable("failed", "a model could not be loaded, or has failed; the server's log says why")
    if status.state is not EngineState.READY:
        is_loading = status.state in (EngineState.LOADING, EngineState.UNLOADED)  # an unloaded one waits for its turn
        state = EngineState.LOADING if is_loading else status.state
        return _unavailable(state.value, status.reason, status.stage, status.progress, may_retry=is_loading)
    if (reason := model.text_problem) == UNUSABLE_TEXT:
        return _unavailable("failed", reason)
    if reason is not None:
        return _unavailable(EngineState.LOADING.value, reason, "prepare text", may_retry=True)
    if (silent_s := status.seconds_since_progress) > (context.config.engine_hang_timeout or _HUNG_AFTER_S):
        return _unavailable("hung", f"the engine has made no progress for {silent_s:.0f} s, with work to do")
    return None


def _is_tried_again(model: ServedModel) -> bool:
    assert model.loadable is not None
    return model.state is ModelState.LOADING and model.loadable.num_failures > 0


def _unavailable(
    status: str, reason: str, stage: str | None = None, progress: float | None = None, *, may_retry: bool = False
) -> JSONResponse:
    body = {"status": status, "reason": reason, "stage": stage, "progress": progress}
    return JSONResponse(body, 503, {"retry-after": str(UNAVAILABLE_RETRY_S)} if may_retry else None)
