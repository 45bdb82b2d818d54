"""GET /metrics and /version, GET and PUT /log-level: routes for operators."""

import importlib.metadata
import logging

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from engine.child_processes.log_format import set_log_level
from engine.client.interface import EngineState
from server.http.body import Context, Json, ignored_body
from server.http.operators import METRICS_READERS, OPERATORS_ONLY
from server.schemas.operations import LogLevelRequest

logger = logging.getLogger(__name__)

router = APIRouter(tags=["Operations"])


@router.get("/metrics", dependencies=[METRICS_READERS])
async def metrics(request: Request, context: Context) -> Response:
    """Report all metrics in Prometheus's text format, or in OpenMetrics format if requested."""
    for model in context.models:
        model.metrics.set("engine_ready", model.client.status().state is EngineState.READY)
    text, content_type = context.metrics.scrape(request.headers.get("accept", ""))
    return Response(text, headers={"content-type": content_type})


@router.get("/version")
async def version() -> JSONResponse:
    """Report the server's version."""
    return JSONResponse({"version": importlib.metadata.version("headrace")})


@router.get("/log-level", dependencies=[OPERATORS_ONLY])
async def log_level() -> JSONResponse:
    """Report the log level."""
    return JSONResponse({"level": logging.getLevelName(logging.getLogger().level).lower()})


@router.put("/log-level", dependencies=[OPERATORS_ONLY])
async def change_log_level(context: Context, body: Json[LogLevelRequest]) -> JSONResponse:
    """Change the log level of the server and its engines, until the server ends."""
    headers = ignored_body(body, context)
    set_log_level(body.level)
    for model in context.models:
        model.client.set_log_level(body.level)
    logger.warning("the log level is %s from now on", body.level)
    return JSONResponse({"level": body.level}, headers=headers)
