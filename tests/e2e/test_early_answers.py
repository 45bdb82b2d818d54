"""Answers before the request's end: clients that send all of it before they read get them, over sockets and TLS."""

import asyncio
import http.client
import ssl

import pytest

from server.config.network import NetworkConfig
from tests.helpers.certificates import Authority
from tests.helpers.deadline import DEADLINE_S, until
from tests.helpers.fake_client import FakeClient, says
from tests.helpers.http_serving import Peer, Served, serving
from tests.helpers.loop_clock import LoopClock

BODY = b"x" * (12 << 20)  # more than sockets hold
JSON = {"content-type": "application/json"}


def _post(
    server: Served, body: bytes = BODY, tls: ssl.SSLContext | None = None, headers: dict[str, str] = JSON
) -> tuple[int, str | None]:
    """Status and `Connection` of the answer to Python's own client, which sends all before it reads. Blocks."""
    if tls is None:
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE_S)
    else:
        client = http.client.HTTPSConnection("localhost", server.port, timeout=DEADLINE_S, context=tls)
    try:
        client.request("POST", "/v1/chat/completions", body=body, headers=headers)
        answer = client.getresponse()
        assert answer.read().startswith(b'{"error":')
        return answer.status, answer.getheader("connection")
    finally:
        client.close()


async def test_a_body_above_the_limit_gets_413() -> None:
    async with serving() as server:
        assert await asyncio.to_thread(_post, server) == (413, "close")
        await until(lambda: not server.connections)
        assert server.closed("body_timeout") == 0


async def test_a_body_above_the_limit_gets_413_over_tls(tmp_path_factory: pytest.TempPathFactory) -> None:
    authority = Authority(tmp_path_factory.mktemp("tls"))
    own = authority.issue("server")
    tls = ssl.create_default_context(cafile=authority.cert)
    async with serving(network=NetworkConfig(ssl_certfile=own.cert, ssl_keyfile=own.key)) as server:
        assert await asyncio.to_thread(_post, server, tls=tls) == (413, "close")
        await until(lambda: not server.connections)


async def test_a_client_that_will_close_gets_its_answer() -> None:
    async with serving(api_key=("k",)) as server:
        assert await asyncio.to_thread(_post, server, headers={**JSON, "connection": "close"}) == (401, "close")


async def test_a_draining_server_refuses_a_whole_request() -> None:
    async with serving() as server:
        server.context.drain.start(0.0)
        assert await asyncio.to_thread(_post, server, BODY[: 7 << 20]) == (503, "close")


async def test_a_connection_too_many_is_told_so() -> None:
    async with serving(max_connections=1) as server:
        held = await server.connect()
        assert await held.get() == 200
        assert await asyncio.to_thread(_post, server) == (503, "close")


async def test_chunks_that_are_not_whole_get_400_whatever_comes_behind() -> None:
    async with serving() as server:
        chunked = {**JSON, "transfer-encoding": "chunked"}
        assert await asyncio.to_thread(_post, server, headers=chunked) == (400, "close")
        assert server.closed("invalid") == 1


async def _refused(server: Served) -> Peer:
    """A client that has 413, and may still send."""
    peer = await server.connect()
    peer.writer.write(
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"content-length: 99999999999\r\n\r\n"
    )
    assert (await peer.answer())[0] == 413
    assert await peer.rest() == b"", "the server says that nothing more comes"
    assert server.connections, "it would reset the connection of a client that sends"
    return peer


async def test_a_refused_client_that_falls_silent_is_closed() -> None:
    async with serving() as server:
        clock, _ = LoopClock(), await _refused(server)
        clock.put_ahead(6)
        await until(lambda: not server.connections)
        assert server.closed("body_timeout") == 0


async def test_a_refused_client_that_sends_on_has_half_a_minute() -> None:
    async with serving() as server:
        clock, peer = LoopClock(), await _refused(server)
        (connection,) = server.connections
        for number in range(1, 10):
            clock.put_ahead(3)
            peer.writer.write(b"x")
            await until(lambda sent=number: connection._ending._late._num_bytes == sent)  # type: ignore[misc]
        assert server.connections
        clock.put_ahead(4)
        await until(lambda: not server.connections)
        assert server.closed("body_timeout") == 1


async def test_a_refused_client_may_send_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.http.connections.late_bytes._MAX_BYTES", 1 << 20)
    async with serving() as server:
        peer = await _refused(server)
        peer.writer.write(BODY)
        await until(lambda: not server.connections)
        assert server.closed("body_timeout") == 1


async def test_the_server_ends_without_waiting_for_a_refused_client() -> None:
    async with serving() as server:
        await _refused(server)
        connections = server.connections
    assert not connections


async def test_a_pipelined_body_has_its_own_time() -> None:
    """The answer before it does not make it one that nobody reads."""
    async with serving(FakeClient(says("x"))) as server:
        clock, peer = LoopClock(), await server.connect()
        body = b'{"prompt": "a"}'
        head = (
            b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n" % len(body)
        )
        peer.writer.write(head + body + head + body[:3])
        assert (await peer.answer())[0] == 200
        clock.put_ahead(35)
        await asyncio.sleep(0.01)
        peer.writer.write(body[3:])
        assert (await peer.answer())[0] == 200
