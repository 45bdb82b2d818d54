"""Bodies of many parts: refused before they cost anything, read off the event loop, and dropped with their client."""

import asyncio
import contextlib
import threading
from typing import Any

import pytest

from server.schemas.base import MAX_MESSAGES
from server.schemas.strict_json import MAX_CONTAINERS
from server.text.workers import LONG_SIZE, MAX_LONG
from tests.helpers.asgi import RawRequest
from tests.helpers.deadline import DEADLINE_S
from tests.helpers.fake_client import FakeClient, http, make_app, says
from tests.helpers.threads import NewThreads

pytestmark = pytest.mark.fast

CHAT_URL = "/v1/chat/completions"
MESSAGE = {"role": "user", "content": "x"}


async def _post(path: str, body: dict[str, Any]) -> Any:
    async with http(make_app(FakeClient(says("x")))) as api:
        return await api.post(path, json=body)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT_URL, {"messages": [MESSAGE] * (MAX_CONTAINERS + 1)}),
        ("/v1/messages", {"max_tokens": 5, "messages": [MESSAGE] * (MAX_CONTAINERS + 1)}),
        ("/v1/responses", {"input": [MESSAGE] * (MAX_CONTAINERS + 1)}),
        ("/v1/completions", {"prompt": "x", "other": [[]] * (MAX_CONTAINERS + 1)}),
    ],
)
async def test_body_of_too_many_parts_is_refused(path: str, body: dict[str, Any]) -> None:
    response = await _post(path, body)
    assert response.status_code == 400
    assert "the body has more than 65,536 objects and lists, which is the limit" in response.text


@pytest.mark.parametrize(
    ("path", "more"), [(CHAT_URL, {}), ("/v1/messages", {"max_tokens": 5}), ("/api/chat", {"model": "org/tiny"})]
)
async def test_conversation_of_too_many_messages_is_refused(path: str, more: dict[str, Any]) -> None:
    response = await _post(path, {"messages": [MESSAGE] * (MAX_MESSAGES + 1), **more})
    assert response.status_code == 400
    assert f"it must have at most {MAX_MESSAGES}" in response.text


async def test_text_full_of_brackets_is_a_text() -> None:
    response = await _post("/tokenize", {"prompt": '[{"a": 1}, ' * MAX_CONTAINERS, "add_special_tokens": False})
    assert response.json()["count"] == 11 * MAX_CONTAINERS


async def test_bodies_of_clients_that_leave_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app(FakeClient(says("x")))
    workers = app.state.context.workers
    begun, go_on = threading.Semaphore(0), threading.Event()

    def hold() -> None:
        begun.release()
        go_on.wait(DEADLINE_S)

    held = [asyncio.create_task(workers.run(hold, size=LONG_SIZE + 1)) for _ in range(MAX_LONG)]
    for _ in held:
        await asyncio.to_thread(begun.acquire, timeout=DEADLINE_S)
    parsed = []
    monkeypatch.setattr("server.http.body.parse_json", parsed.append)
    body = {"messages": [{**MESSAGE, "content": "x" * 100_000}]}
    async with contextlib.AsyncExitStack() as stack:
        requests = [await stack.enter_async_context(RawRequest(app, CHAT_URL, body)) for _ in range(20)]
        for request in requests:
            request.disconnect()
            await request.ended()
    go_on.set()
    await asyncio.gather(*held)
    await workers.run(lambda: None, size=LONG_SIZE + 1)
    assert parsed == []


async def test_short_requests_start_no_threads() -> None:
    async with http(make_app(FakeClient(says("x")))) as api:
        await api.post("/detokenize", json={"tokens": [1]})  # which builds the tokenizer
        new_threads = NewThreads()
        await asyncio.gather(*(api.post("/detokenize", json={"tokens": [1]}) for _ in range(50)))
        assert new_threads.names() == []
