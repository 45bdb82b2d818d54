"""Parsing and validation of request bodies, JSON responses, and the FastAPI dependency for the server's context."""

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import msgspec
from fastapi import Depends, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from engine.errors import InvalidRequest
from server.context import ServerContext
from server.errors import ClientGone, RequestTimeout, RequestTooLarge
from server.http.disconnect import until_disconnect
from server.schemas.base import StrictModel, validate
from server.schemas.parameters import ignored_header, ignored_parameters
from server.schemas.strict_json import parse_json

M = TypeVar("M", bound=StrictModel)
T = TypeVar("T")

_ENCODINGS = frozenset({"gzip", "x-gzip", "deflate", "compress", "br", "zstd"})
_INLINE_BYTES = 1 << 14  # parsed on the event loop, in a few milliseconds at most
_BODY_TIMEOUT_S = 60.0  # from the end of the request's head to the end of its body


def context_of(request: Request) -> ServerContext:
    return cast(ServerContext, request.app.state.context)


async def _context_dependency(request: Request) -> ServerContext:
    return context_of(request)  # FastAPI runs dependencies that are not coroutines in threads, up to forty


Context = Annotated[ServerContext, Depends(_context_dependency)]


if TYPE_CHECKING:
    Json = Annotated[M, ...]
else:

    class Json:
        """Annotation of a route's parameter, `body: Json[MODEL]`: the request's body, validated as the model.

        Raises InvalidRequest, RequestTooLarge or RequestTimeout. FastAPI's own body parameters would accept NaN, coerce
        types, answer 422, and read bodies of any size.
        """

        def __class_getitem__(cls, model: type[M]) -> Any:
            async def read(request: Request) -> M:
                return await read_body(request, lambda body: validate(model, body))

            read.body_model = model  # for the API's description
            return Annotated[model, Depends(read)]


async def read_body(request: Request, read: Callable[[dict[str, Any]], T]) -> T:
    """Parse the request's body as a JSON object, and return `read(object)`. Raises InvalidRequest, RequestTooLarge,
    RequestTimeout and ClientGone.

    A long body is parsed and read in a thread; a disconnect ends the wait for it.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json" and is_from_page(request):
        # A foreign web page may send other types, or none, without a preflight.
        raise InvalidRequest(f"the content-type is {content_type[:60]!r}; from a web page it must be application/json")
    if content_type.startswith("multipart/"):
        raise InvalidRequest(f"the content-type is {content_type[:60]!r}; send the fields as JSON, without files")
    if (encoding := request.headers.get("content-encoding", "").strip().lower()) in _ENCODINGS:
        raise InvalidRequest(f"the content-encoding is {encoding!r}; send the body unencoded")
    context = context_of(request)
    data = await _read(request, context.config.max_request_bytes)
    if len(data) <= _INLINE_BYTES:
        return read(_json_object(data))
    reading = context.workers.run(lambda: read(_json_object(data)), size=len(data))
    return await until_disconnect(reading, request.receive)


def _json_object(data: bytes) -> dict[str, Any]:
    if not data.strip():
        raise InvalidRequest("the body is empty; it must be a JSON object")
    body = parse_json(data)
    if not isinstance(body, dict):
        raise InvalidRequest("the body must be a JSON object")
    return body


def is_from_page(request: Request) -> bool:
    """Whether the request comes from a web page: browsers mark each POST of a page with Origin or Sec-Fetch-Site.

    The content-type does not tell: Ollama's clients often send none, and curl's default is that of a form.
    """
    return "origin" in request.headers or "sec-fetch-site" in request.headers


def json_response(answer: Any, headers: Mapping[str, str] | None = None) -> Response:
    """Return `answer`, a msgspec struct or plain values, as a JSON response."""
    return Response(msgspec.json.encode(answer), headers=headers, media_type="application/json")


def ignored_body(body: StrictModel, context: ServerContext) -> dict[str, str]:
    """Return the header that lists the body's ignored fields. Raises InvalidRequest for unknown fields
    under --strict-parameters, and UnsupportedParameter for fields that would change the answer."""
    return ignored_header(ignored_parameters(body.extra, strict=context.config.strict_parameters))


async def _read(request: Request, limit: int) -> bytes:
    """Read the whole body. Raises RequestTooLarge if it has more than `limit` bytes, RequestTimeout and ClientGone."""
    too_large = RequestTooLarge(f"the body has more than {limit} bytes (--max-request-bytes)")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise too_large
    chunks, size = [], 0
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise too_large
                chunks.append(chunk)
    except TimeoutError:
        raise RequestTimeout(f"the body was not complete after {_BODY_TIMEOUT_S:g} s") from None
    except ClientDisconnect:
        raise ClientGone from None
    return b"".join(chunks)
