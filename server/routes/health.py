"""/live, /ready and /health: open to all, and quick under any load."""

from fastapi import APIRouter
from starlette.responses import JSONResponse

from engine.client import EngineState
from engine.errors import QueueFull
from server.context import ServerContext
from server.deps import Context

router = APIRouter()

_HUNG_AFTER_S = 60.0  # without a finished step while there is work


@router.get("/live")
async def live() -> JSONResponse:
    """200 while this process answers: restart it if it does not."""
    return JSONResponse({"status": "ok"})


@router.get("/ready")
async def ready(context: Context) -> JSONResponse:
    """200 while a request would be taken: send traffic elsewhere if not."""
    if (problem := _problem(context)) is not None:
        return problem
    try:
        context.client.check_capacity(1)
    except QueueFull as error:
        return _unavailable("overloaded", str(error))
    return JSONResponse({"status": "ok"})


@router.get("/health")
async def health(context: Context) -> JSONResponse:
    """200 while the engine is ready and either idle or getting on."""
    if (problem := _problem(context)) is not None:
        return problem
    silent_s = context.client.status().seconds_since_progress
    if silent_s > _HUNG_AFTER_S:
        return _unavailable("hung", f"no step has finished for {silent_s:.0f} s, with work to do")
    return JSONResponse({"status": "ok"})


def _problem(context: ServerContext) -> JSONResponse | None:
    """The answer while the engine takes no requests."""
    status = context.client.status()
    if context.draining:
        return _unavailable("draining", "the server is shutting down")
    if status.state is EngineState.READY:
        return None
    return _unavailable(status.state.value, status.reason, status.progress)


def _unavailable(status: str, reason: str, progress: float | None = None) -> JSONResponse:
    return JSONResponse({"status": status, "reason": reason, "progress": progress}, 503)
