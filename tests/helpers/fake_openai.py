"""A small server that streams as OpenAI's does, for tests of clients."""

import asyncio
import contextlib
import json
import math
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.helpers.deadline import until

TOKENS_PER_CHUNK = 3


@dataclass
class FakeServer:
    """Answers with max_tokens tokens, several in a chunk, and tells in `usage` how many. Records what it was sent."""

    delay_s: float = 0.0  # before the first chunk, and between chunks
    num_together: int = 0  # the first answers wait until so many are open at once
    fail: str = ""  # "status", "event" or "no usage"
    cached_tokens: int | None = None
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    clients: list[tuple[str, int]] = field(default_factory=list)  # addresses of the connections
    num_open: int = 0
    most_open: int = 0

    def app(self) -> Starlette:
        routes = [Route("/v1/models", self._models)]
        routes += [
            Route(f"/v1/{path}", self._generate, methods=["POST"]) for path in ("completions", "chat/completions")
        ]
        return Starlette(routes=routes)

    async def _models(self, _: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "fake/model"}, {"id": "other"}]})

    async def _generate(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self.clients.append(tuple(request.client or ()))  # type: ignore[arg-type]
        if self.fail == "status":
            return JSONResponse({"error": {"message": "the queue is full", "code": 429}}, 429)
        return StreamingResponse(self._stream(body), media_type="text/event-stream")

    async def _stream(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        self.num_open += 1
        self.most_open = max(self.most_open, self.num_open)
        await until(lambda: self.most_open >= self.num_together)
        is_chat = "messages" in body
        if is_chat:
            yield _event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        num_chunks = math.ceil(body["max_tokens"] / TOKENS_PER_CHUNK)
        for index in range(num_chunks):
            await asyncio.sleep(self.delay_s)
            if self.fail == "event" and index == 1:
                yield _event({"error": {"message": "the engine died"}})
                break
            text = f" w{index}"
            choice = {"index": 0, "delta": {"content": text}} if is_chat else {"index": 0, "text": text}
            first, second = _split(_event({"choices": [choice | {"finish_reason": None}], "usage": None}))
            yield b": keep-alive\n\n" + first
            await asyncio.sleep(0)
            yield second
        end = {"index": 0, "delta": {}} if is_chat else {"index": 0, "text": ""}
        yield _event({"choices": [end | {"finish_reason": "length"}]})
        if body.get("stream_options", {}).get("include_usage") and self.fail != "no usage":
            prompt = body["messages"] if is_chat else body["prompt"]
            length = len(prompt) if isinstance(prompt, list) and not is_chat else len(str(prompt).split()) + 2
            usage = {"prompt_tokens": length, "completion_tokens": body["max_tokens"]}
            if self.cached_tokens is not None:
                usage["prompt_tokens_details"] = {"cached_tokens": self.cached_tokens}  # type: ignore[assignment]
            yield _event({"choices": [], "usage": usage})
        self.num_open -= 1
        yield b"data: [DONE]\n\n"


def _event(payload: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(payload).encode() + b"\r\n\r\n"


def _split(event: bytes) -> tuple[bytes, bytes]:
    """A cut in the middle of an event, as networks make them."""
    return event[: len(event) // 2], event[len(event) // 2 :]


@contextlib.asynccontextmanager
async def serving(fake: FakeServer) -> AsyncIterator[str]:
    """The URL of `fake`, served in this event loop."""
    with socket.create_server(("127.0.0.1", 0)) as sock:  # listening: its first client may come before uvicorn does
        server = uvicorn.Server(uvicorn.Config(fake.app(), log_level="error", lifespan="off"))
        task = asyncio.create_task(server.serve([sock]))
        try:
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


if __name__ == "__main__":
    uvicorn.run(FakeServer().app(), port=int(sys.argv[1]), log_level="error")
