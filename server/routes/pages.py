"""GET / and /dashboard: the chat page, the dashboard, and the files that they use."""

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response

from server.pages.files import NAMES, PAGE_HEADERS, page_file

router = APIRouter()

_HEADERS = {
    **PAGE_HEADERS,
    "cache-control": "no-cache",  # browsers check whether the file has changed, so a new version shows immediately
    "vary": "accept-encoding",
}


@router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def chat(request: Request) -> Response:
    """Show the chat page to browsers. Programs that probe for an Ollama server get a line of text."""
    if "text/html" not in request.headers.get("accept", ""):
        return PlainTextResponse("headrace is running", headers={"vary": "accept"})
    return _answer("chat.html", request)


@router.api_route("/dashboard", methods=["GET", "HEAD"], include_in_schema=False)
async def dashboard(request: Request) -> Response:
    """Show the dashboard: a page of the engine's activity, whose data only operators can request."""
    return _answer("dashboard.html", request)


@router.api_route("/assets/{name:path}", methods=["GET", "HEAD"], include_in_schema=False)
async def asset(request: Request, name: str) -> Response:
    """Return a file that a page uses."""
    if name not in NAMES or name.endswith(".html"):
        raise HTTPException(404)
    return _answer(name, request)


def _answer(name: str, request: Request) -> Response:
    file = page_file(name)
    headers = {**_HEADERS, "etag": file.etag}
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(file.packed, media_type=file.media_type, headers={**headers, "content-encoding": "gzip"})
    return Response(file.plain, media_type=file.media_type, headers=headers)
