"""GET /openapi.json and /docs: the API's OpenAPI description, and a page to read and try it."""

import functools
import gzip
from collections.abc import Callable, Iterable, Mapping
from importlib import resources

import msgspec
from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute

from server.endpoints.binding.registry import ENDPOINT_OPERATIONS
from server.http.middleware.auth import OPEN_PATHS
from server.openapi.document import openapi_document
from server.openapi.operation import Operation
from server.openapi.operations import ROUTE_OPERATIONS
from server.pages.files import PAGE_HEADERS

router = APIRouter()

# Descriptions of all routes by method and path.
OPERATIONS: Mapping[str, Operation] = {**ENDPOINT_OPERATIONS, **ROUTE_OPERATIONS}

_TYPES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "start.js": "text/javascript",
}
# Relative URLs: a proxy may put the server under a prefix.
_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>headrace: API</title>
<link rel="icon" href="data:,"><link rel="stylesheet" href="docs/swagger-ui.css"></head>
<body><div id="api"></div><script src="docs/swagger-ui-bundle.js"></script><script src="docs/start.js"></script></body>
</html>
"""
_START = 'SwaggerUIBundle({url: "openapi.json", dom_id: "#api", deepLinking: true, validatorUrl: null});\n'


@router.api_route("/openapi.json", methods=["GET", "HEAD"], include_in_schema=False)
async def openapi(request: Request) -> Response:
    """Return the API's OpenAPI description."""
    return Response(request.app.state.description(), media_type="application/json")


def description_of(routes: Iterable[BaseRoute], root_path: str) -> Callable[[], bytes]:
    """Return a function that returns the OpenAPI description of the routes as JSON. Its first call takes 0.1 s."""

    @functools.cache
    def describe() -> bytes:
        document = openapi_document(routes, OPERATIONS, open_paths=OPEN_PATHS, root_path=root_path)
        return msgspec.json.encode(document)

    return describe


@router.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False)
async def page() -> Response:
    """Show the API's description as a page that can send requests."""
    return Response(_PAGE, media_type="text/html", headers=PAGE_HEADERS)


@router.api_route("/docs/{name}", methods=["GET", "HEAD"], include_in_schema=False)
async def asset(request: Request, name: str) -> Response:
    """Return a file that the page uses."""
    if name not in _TYPES:
        raise HTTPException(404)
    headers = {**PAGE_HEADERS, "cache-control": "max-age=3600", "vary": "accept-encoding"}
    if name == "start.js":
        return Response(_START, media_type=_TYPES[name], headers=headers)
    data = resources.files("server.openapi").joinpath("assets", f"{name}.gz").read_bytes()
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["content-encoding"] = "gzip"
    else:
        data = gzip.decompress(data)
    return Response(data, media_type=_TYPES[name], headers=headers)
