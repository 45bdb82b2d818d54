"""/live, /ready and /health: open to all, and quick under any load."""

from fastapi import APIRouter
from starlette.responses import JSONResponse

from engine.client.interface import EngineState
from engine.errors import QueueFull
from server.context import ServerContext
from server.errors import UNAVAILABLE_RETRY_S
from server.http.body import Context

router = APIRouter(tags=["Operations"])

_HUNG_AFTER_S = 60.0  # without progress while there is work, where --engine-hang-timeout does not say it


@router.api_route("/live", methods=["GET", "HEAD"])
async def live() -> JSONResponse:
    """200 while this process answers: restart it if it does not."""
    return JSONResponse({"status": "ok"})


@router.api_route("/ready", methods=["GET", "HEAD"])
async def ready(context: Context) -> JSONResponse:
    """200 while a request would be taken: send traffic elsewhere if not."""
    if (problem := _problem(context)) is not None:
        return problem
    try:
        context.models.default.client.check_capacity(1)
    except QueueFull as error:
        return _unavailable("overloaded", str(error))
    limit, num_waiting = context.config.ready_max_waiting, context.models.default.client.status().num_waiting
    if limit is not None and num_waiting > limit:
        return _unavailable("overloaded", f"{num_waiting} requests wait, more than {limit} (--ready-max-waiting)")
    return JSONResponse({"status": "ok"})


@router.api_route("/health", methods=["GET", "HEAD"])
async def health(context: Context) -> JSONResponse:
    """200 while the engine is ready and either idle or getting on."""
    return _problem(context) or JSONResponse({"status": "ok"})


def _problem(context: ServerContext) -> JSONResponse | None:
    """The answer while the engine takes no requests, or does not get on with those it took."""
    if context.drain.is_active:
        return _unavailable("draining", context.drain.reason, may_retry=True)
    status = context.models.default.client.status()
    if status.state is not EngineState.READY:
        is_loading = status.state is EngineState.LOADING
        return _unavailable(status.state.value, status.reason, status.stage, status.progress, may_retry=is_loading)
    if (silent_s := status.seconds_since_progress) > (context.config.engine_hang_timeout or _HUNG_AFTER_S):
        return _unavailable("hung", f"the engine has made no progress for {silent_s:.0f} s, with work to do")
    return None


def _unavailable(
    status: str, reason: str, stage: str | None = None, progress: float | None = None, *, may_retry: bool = False
) -> JSONResponse:
    body = {"status": status, "reason": reason, "stage": stage, "progress": progress}
    return JSONResponse(body, 503, {"retry-after": str(UNAVAILABLE_RETRY_S)} if may_retry else None)
