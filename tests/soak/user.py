"""User: a client that sends one request after the other, and notes what becomes of each."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.soak.tally import Outcome, Tally

_UNAVAILABLE = (429, 503)
_RETRY_S = 1.0
_ENDS = ("message_stop", "response.completed", "response.incomplete", "response.failed", "error")


@dataclass(slots=True)
class Stream:
    """A stream as far as it was read."""

    status: int
    headers: httpx.Headers
    lines: AsyncIterator[str]
    events: list[dict[str, Any]] = field(default_factory=list)
    last_id: str = ""
    has_ended: bool = False  # with its end mark
    is_cut: bool = False

    async def read(self, max_events: int | None = None) -> None:
        """Read events to the end, or up to a number; then the client goes away."""
        async for line in self.lines:
            if line.startswith("id: "):
                self.last_id = line.removeprefix("id: ")
            elif line == "data: [DONE]":
                self.has_ended = True
            elif line.startswith(("data: {", "{")):
                self.events.append(json.loads(line.removeprefix("data: ")))
                kind = self.events[-1]
                done = kind.get("type") in _ENDS
                self.has_ended |= done or kind.get("done") is True or "error" in kind
            if max_events is not None and len(self.events) >= max_events and not self.has_ended:
                self.is_cut = True
                return

    @property
    def error(self) -> dict[str, Any] | None:
        """What the stream ended with, if that is an error."""
        last = self.events[-1] if self.events else {}
        failed = last.get("type") in ("response.failed", "error") or "error" in last
        return last if failed and last.get("error", last) is not None else None


class User:
    """`random`: of this user alone, so that a run can be repeated."""

    def __init__(self, http: httpx.AsyncClient, tally: Tally, seed: int) -> None:
        self.tally = tally
        self.random = random.Random(seed)
        self.scenario = ""
        self._http = http

    async def call(self, method: str, path: str, body: Any = None, *, route: str | None = None) -> httpx.Response:
        """A whole answer. route: of the path, where they differ. Raises httpx.HTTPError."""
        content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        headers = {} if content is None else {"content-type": "application/json"}
        try:
            response = await self._http.request(method, path, content=content, headers=headers)
        except httpx.HTTPError as error:
            self.tally.note(self.scenario, Outcome.BROKEN)
            self.tally.wrong.append(f"{self.scenario}: {method} {path}: {error!r}")
            raise
        self.tally.answers[method, route or path, response.status_code] += 1
        await _wait_if_unavailable(response.status_code)
        return response

    async def ask(self, path: str, body: dict[str, Any], *, expects: int = 200, route: str | None = None) -> Any:
        """The decoded answer of a request that is one of the load, or None if it failed as it may."""
        response = await self.call("POST", path, body, route=route)
        outcome = _outcome(response.status_code)
        self.tally.note(self.scenario, outcome)
        if response.status_code == expects:
            return response.json()
        if outcome not in (Outcome.FAILED, Outcome.UNAVAILABLE):
            self.tally.wrong.append(f"{self.scenario}: {path} {response.status_code}: {response.text[:300]}")
        return None

    @asynccontextmanager
    async def stream(
        self, path: str, body: dict[str, Any] | None, *, method: str = "POST", route: str | None = None, **headers: str
    ) -> AsyncIterator[Stream]:
        """A stream, noted when the block ends as what it has been read to."""
        try:
            async with self._http.stream(method, path, json=body, headers=headers) as response:
                stream = Stream(response.status_code, response.headers, response.aiter_lines())
                yield stream
                if stream.is_cut:
                    self.tally.num_cut[method, route or path] += 1
                else:
                    self.tally.answers[method, route or path, response.status_code] += 1
        except httpx.HTTPError as error:
            self.tally.note(self.scenario, Outcome.BROKEN)
            self.tally.wrong.append(f"{self.scenario}: {path}: {error!r}")
            raise
        self.tally.note(self.scenario, self._outcome_of(stream, path))
        await _wait_if_unavailable(stream.status)

    def _outcome_of(self, stream: Stream, path: str) -> Outcome:
        if stream.status != 200:
            return _outcome(stream.status)
        if stream.is_cut:
            return Outcome.CUT
        if stream.error is not None:
            return Outcome.FAILED
        if not stream.has_ended:
            self.tally.wrong.append(f"{self.scenario}: {path} broke off after {stream.events[-1:]}")
            return Outcome.BROKEN
        return Outcome.COMPLETED


async def _wait_if_unavailable(status: int) -> None:
    """As a client that obeys Retry-After does: else a start of the engine sees nothing but refusals."""
    if status in _UNAVAILABLE:
        await asyncio.sleep(_RETRY_S)


def _outcome(status: int) -> Outcome:
    if status in _UNAVAILABLE:
        return Outcome.UNAVAILABLE
    if status >= 500:
        return Outcome.FAILED
    return Outcome.REFUSED if status >= 400 else Outcome.COMPLETED
