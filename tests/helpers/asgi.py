"""One request to an ASGI application by hand: its answer as it is sent, and a client that can go away."""

import asyncio
import json
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from starlette.types import ASGIApp, Message

from tests.helpers.deadline import DEADLINE_S

Headers = Sequence[tuple[bytes, bytes]]
DEFAULT_HEADERS = ((b"host", b"server"), (b"content-type", b"application/json"))


class RawRequest:
    """A request whose application runs as a task beside the test, from entering to leaving."""

    def __init__(
        self,
        app: ASGIApp,
        path: str,
        body: dict[str, Any],
        *,
        headers: Headers = DEFAULT_HEADERS,
        method: str = "POST",
        root_path: str = "",
        query: str = "",
        client: tuple[str, int] | None = ("127.0.0.1", 50000),
        state: dict[str, Any] | None = None,
    ) -> None:
        self.sent: list[Message] = []
        self.is_paused = False  # the client reads nothing, and the application waits to send more
        self._may_read = asyncio.Event()
        self._may_read.set()
        self.task: asyncio.Task[None] | None = None
        self._app = app
        self._rest: Message | None = None  # of a body that was truncated
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._messages.put_nowait({"type": "http.request", "body": json.dumps(body).encode(), "more_body": False})
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": root_path,
            "headers": list(headers),
            "client": client,
            "server": ("127.0.0.1", 80),
            "state": state or {},
        }

    async def __aenter__(self) -> Self:
        self.task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self.task is not None
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    def truncate_body(self) -> None:
        """Have only the first half of the body arrive; for use before entering."""
        message = self._messages.get_nowait()
        size = len(message["body"]) // 2
        self._rest = {**message, "body": message["body"][size:]}
        self._messages.put_nowait({**message, "body": message["body"][:size], "more_body": True})

    def complete_body(self) -> None:
        """Have the rest of a truncated body arrive."""
        assert self._rest is not None
        self._messages.put_nowait(self._rest)

    def pause(self) -> None:
        """Read no more of the answer than its next piece."""
        self._may_read.clear()

    def resume(self) -> None:
        self.is_paused = False
        self._may_read.set()

    def disconnect(self) -> None:
        self._messages.put_nowait({"type": "http.disconnect"})

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; it is looked at whenever the loop has been round."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await asyncio.sleep(0)

    async def ended(self) -> None:
        """Wait until the application has returned; raises what it raised."""
        assert self.task is not None
        async with asyncio.timeout(DEADLINE_S):
            await self.task

    @property
    def has_ended(self) -> bool:
        return self.task is not None and self.task.done()

    @property
    def status(self) -> int | None:
        return next((m["status"] for m in self.sent if m["type"] == "http.response.start"), None)

    @property
    def headers(self) -> dict[bytes, bytes]:
        return next((dict(m["headers"]) for m in self.sent if m["type"] == "http.response.start"), {})

    @property
    def body(self) -> bytes:
        return b"".join(m["body"] for m in self.sent if m["type"] == "http.response.body")

    async def _run(self) -> None:
        await self._app(self._scope, self._messages.get, self._send)

    async def _send(self, message: Message) -> None:
        self.sent.append(message)
        if message["type"] == "http.response.body":
            self.is_paused = not self._may_read.is_set()
            await self._may_read.wait()
