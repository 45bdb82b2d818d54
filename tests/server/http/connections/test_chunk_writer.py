"""Chunks of a stream go past the ASGI layers: the client's bytes are the same, and all are counted."""

import json
import re
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.http.connections.chunk_writer import CHUNKS_STATE, ChunkWriter
from tests.helpers.fake_client import FakeClient, make_app, says
from tests.helpers.memory_connection import exchange

pytestmark = pytest.mark.fast

TEXT = "ab\u2028é🙂 end"
BODY = json.dumps({"messages": [{"role": "user", "content": "hi"}], "stream": True}).encode()
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%s" % (len(BODY), BODY)
)
_OWN = re.compile(rb"chatcmpl-\w+|req_\w+|\"created\":\d+|openai-processing-ms: \d+|x-\S+: [0-9.]+")


def _watched(app: ASGIApp, messages: list[Message], *, has_writer: bool) -> ASGIApp:
    """The application, with a list of what it sends by ASGI."""

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        if not has_writer:
            del scope["state"][CHUNKS_STATE]

        async def watched_send(message: Message) -> None:
            messages.append(message)
            await send(message)

        await app(scope, receive, watched_send)

    return watched


async def _stream(*, has_writer: bool) -> tuple[bytes, list[Message], str]:
    app = make_app(FakeClient(says(TEXT)))
    messages: list[Message] = []
    result = await exchange(_watched(app, messages, has_writer=has_writer), [REQUEST])
    text, _ = app.state.context.metrics.scrape("")
    return bytes(result.written), messages, text.decode()


async def test_the_bytes_are_those_of_asgi() -> None:
    (written, _, _), (by_asgi, _, _) = await _stream(has_writer=True), await _stream(has_writer=False)
    assert _OWN.sub(b"", written) == _OWN.sub(b"", by_asgi)
    assert written.count(b"data: {") > len(TEXT)
    assert rb"\u2028" in written


async def test_only_head_and_end_pass_the_layers() -> None:
    _, messages, _ = await _stream(has_writer=True)
    _, by_asgi, _ = await _stream(has_writer=False)
    assert [message["type"] for message in messages] == ["http.response.start"] + ["http.response.body"] * 2
    assert [message["body"] for message in messages[1:]] == [b"data: [DONE]\n\n", b""]
    assert len(by_asgi) > len(TEXT)


def _chunks(response: bytes) -> list[bytes]:
    """The chunks of a response's body, with the empty one that ends it."""
    _, _, left = response.partition(b"\r\n\r\n")
    chunks = []
    while left:
        size, _, left = left.partition(b"\r\n")
        chunks.append(left[: int(size, 16)])
        left = left[len(chunks[-1]) + 2 :]
    return chunks


async def test_an_answer_that_is_kept_for_a_repeated_request_has_all_chunks() -> None:
    app = make_app(client := FakeClient(says(TEXT)))
    request = REQUEST.replace(b"\r\nconnection:", b"\r\nidempotency-key: once\r\nconnection:")
    first = bytes((await exchange(app, [request])).written)
    again = bytes((await exchange(app, [request])).written)
    assert again.partition(b"\r\n\r\n")[2] == b"".join(_chunks(first))
    assert len(_chunks(first)) > len(TEXT)
    assert len(client.requests) == 1


@pytest.mark.parametrize("key", [b"", b"idempotency-key: once\r\n"])
async def test_a_client_of_http_1_0_gets_no_chunks(key: bytes) -> None:
    app = make_app(FakeClient(says(TEXT)))
    request = REQUEST.replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n" + key)
    result = await exchange(app, [request])
    head, _, body = bytes(result.written).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert _OWN.sub(b"", body) == _OWN.sub(b"", b"".join(_chunks((await _stream(has_writer=True))[0])))
    assert result.is_closed
    text, _ = app.state.context.metrics.scrape("")
    (counted,) = re.findall(
        r"^headrace_http_response_size_bytes_sum\{.*chat/completions.*\} (\S+)$", text.decode(), re.M
    )
    assert float(counted) == len(body)


@pytest.mark.parametrize("has_writer", [True, False])
async def test_all_bytes_are_counted(has_writer: bool) -> None:
    written, _, metrics = await _stream(has_writer=has_writer)
    (counted,) = re.findall(r"^headrace_http_response_size_bytes_sum\{.*chat/completions.*\} (\S+)$", metrics, re.M)
    assert float(counted) == sum(map(len, _chunks(written)))


def _writer(**changes: Any) -> tuple[ChunkWriter, bytearray]:
    written = bytearray()
    state = {"chunked_encoding": True, "disconnected": False, "response_complete": False, "write_paused": False}
    state |= changes
    flow = SimpleNamespace(write_paused=state.pop("write_paused"))
    cycle: Any = SimpleNamespace(**state, flow=flow, transport=SimpleNamespace(write=written.extend))
    return ChunkWriter(cycle), written


def test_a_chunk_is_framed_and_counted() -> None:
    writer, written = _writer()
    assert writer.write(b"x" * 26)
    assert bytes(written) == b"1a\r\n" + b"x" * 26 + b"\r\n"
    assert writer.num_bytes == 26


@pytest.mark.parametrize(
    "changes",
    [
        {"chunked_encoding": None},  # before the head
        {"chunked_encoding": False},
        {"disconnected": True},
        {"response_complete": True},
        {"write_paused": True},  # the client reads too slowly, so that the sender must wait
    ],
)
def test_what_asgi_must_send_is_not_written(changes: dict[str, Any]) -> None:
    writer, written = _writer(**changes)
    assert not writer.write(b"x")
    assert (bytes(written), writer.num_bytes) == (b"", 0)


def test_an_empty_chunk_would_end_the_body() -> None:
    writer, written = _writer()
    assert not writer.write(b"")
    assert not written
