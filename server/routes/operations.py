"""GET /metrics and /version: for whoever runs the server."""

import importlib.metadata

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse, Response

from engine.client.interface import EngineState
from server.http.body import Context

router = APIRouter(tags=["Operations"])


@router.get("/metrics")
async def metrics(context: Context) -> Response:
    """Show all metrics in Prometheus's text format."""
    context.metrics.set("engine_ready", context.client.status().state is EngineState.READY)
    return Response(context.metrics.render(), headers={"content-type": CONTENT_TYPE_LATEST})


@router.get("/version")
async def version() -> JSONResponse:
    """Tell the server's version."""
    return JSONResponse({"version": importlib.metadata.version("headrace")})
