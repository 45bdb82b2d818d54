"""A small ASGI application for benchmarks/http_server/servers.py that imports only the standard library.

POST /whole answers with the length of its body, POST /stream with twenty events of a twentieth of a second each,
POST /endless with endless bytes, and GET /left with the number of requests to POST /wait that learned that their client
had left.
"""

import asyncio
import json
from typing import Any

EVENTS = 20
EVENT_S = 0.05

_left = [0]


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        raise RuntimeError("only HTTP")  # servers that try the lifespan protocol continue without it
    body = await _body(receive)
    match scope["path"]:
        case "/whole":
            await _whole(send, {"length": len(body)})
        case "/stream":
            await _stream(send)
        case "/endless":
            await _endless(send)
        case "/wait":
            await _wait(receive, send)
        case _:
            await _whole(send, {"left": _left[0]})


async def _body(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return body
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return body


async def _whole(send: Any, answer: object) -> None:
    body = json.dumps(answer).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _stream(send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for number in range(EVENTS):
        await send({"type": "http.response.body", "body": b"data: %d\n\n" % number, "more_body": True})
        await asyncio.sleep(EVENT_S)
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


async def _endless(send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    while True:
        await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        await asyncio.sleep(0)


async def _wait(receive: Any, send: Any) -> None:
    try:
        async with asyncio.timeout(5):
            while (await receive())["type"] != "http.disconnect":
                pass
        _left[0] += 1
    except TimeoutError:
        await _whole(send, {})
