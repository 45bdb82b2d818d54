"""GET /metrics and /version: for whoever runs the server."""

import importlib.metadata

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from engine.client.interface import EngineState
from server.http.body import Context
from server.http.operators import METRICS_READERS

router = APIRouter(tags=["Operations"])


@router.get("/metrics", dependencies=[METRICS_READERS])
async def metrics(request: Request, context: Context) -> Response:
    """Show all metrics in Prometheus's text format, or in OpenMetrics where that is asked for."""
    context.metrics.set("engine_ready", context.client.status().state is EngineState.READY)
    text, content_type = context.metrics.scrape(request.headers.get("accept", ""))
    return Response(text, headers={"content-type": content_type})


@router.get("/version")
async def version() -> JSONResponse:
    """Tell the server's version."""
    return JSONResponse({"version": importlib.metadata.version("headrace")})
