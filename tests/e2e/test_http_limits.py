"""Connections that are slow, idle, too many or too large: raw sockets against the HTTP server."""

import asyncio
import json
import socket

import pytest

from engine.protocol import AbortReason, RequestOutput
from tests.helpers.deadline import DEADLINE_S, until
from tests.helpers.fake_client import FakeClient, Step, says
from tests.helpers.http_serving import GET, LIMIT_S, Served, serving
from tests.helpers.loop_clock import LoopClock


def _post(length: int, *, path: str = "/v1/completions") -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    )
    return head.encode()


async def _until_head(server: Served, num_bytes: int) -> None:
    """Wait until the server has so much of the head of its one connection."""
    await until(lambda: [connection._head_bytes for connection in server.connections] == [num_bytes])


async def test_a_connection_that_sends_nothing_is_closed() -> None:
    async with serving() as server:
        clock, peer = LoopClock(), await server.connect()
        await until(lambda: server.connections)
        clock.put_ahead(LIMIT_S + 1)
        assert await peer.rest() == b""
        assert server.closed("header_timeout") == 1


async def test_a_slow_head_gets_408_however_steadily_it_comes() -> None:
    async with serving() as server:
        clock, peer = LoopClock(), await server.connect()
        sent = b"GET /v1/models HTTP/1.1\r\n"
        peer.writer.write(sent)
        for number in range(10):
            await _until_head(server, len(sent))
            clock.put_ahead(LIMIT_S / 20)
            line = b"x-%d: y\r\n" % number
            peer.writer.write(line)
            sent += line
        await _until_head(server, len(sent))
        clock.put_ahead(LIMIT_S / 2)
        status, headers, body = await peer.answer()
        assert (status, headers["connection"]) == (408, "close")
        assert json.loads(body)["error"]["code"] == "request_timeout"
        assert await peer.rest() == b""


async def test_a_hundred_slow_heads_are_gone_and_others_are_served_meanwhile() -> None:
    async with serving() as server:
        clock, slow = LoopClock(), [await server.connect() for _ in range(100)]
        for peer in slow:
            peer.writer.write(b"GET / HT")
        await until(lambda: sum(connection._head_bytes > 0 for connection in server.connections) == 100)
        assert await (await server.connect()).get() == 200
        clock.put_ahead(LIMIT_S + 1)
        assert {(await peer.rest())[9:12] for peer in slow} == {b"408"}
        assert server.closed("header_timeout") == 100


async def test_the_head_of_a_later_request_has_its_time_from_its_first_byte() -> None:
    async with serving(timeout_keep_alive=100) as server:
        clock, peer = LoopClock(), await server.connect()
        assert await peer.get() == 200
        clock.put_ahead(LIMIT_S + 1)
        peer.writer.write(GET[:10])
        await _until_head(server, 10)
        clock.put_ahead(LIMIT_S / 2)
        peer.writer.write(GET[10:])
        assert (await peer.answer())[0] == 200
        peer.writer.write(GET[:10])
        await _until_head(server, 10)
        clock.put_ahead(LIMIT_S + 1)
        assert (await peer.answer())[0] == 408


async def test_a_late_head_waits_for_the_answer_before_it() -> None:
    async with serving(FakeClient(lambda request: [RequestOutput(id=request.id, new_ids=[97]), None])) as server:
        clock, peer = LoopClock(), await server.connect()
        body = json.dumps({"prompt": "a", "stream": True}).encode()
        peer.writer.write(_post(len(body)) + body + GET[:10])
        await peer.reader.readuntil(b"data: ")
        await until(lambda: [connection for connection in server.connections if connection._head_timer is not None])
        for _ in range(2):
            clock.put_ahead(LIMIT_S + 1)
            await asyncio.sleep(0.01)
            assert not peer.reader.at_eof()
            assert server.connections
        peer.writer.close()


async def test_an_idle_connection_is_kept_and_then_closed() -> None:
    async with serving(timeout_keep_alive=1000) as server:
        clock, peer = LoopClock(), await server.connect()
        assert await peer.get() == 200
        clock.put_ahead(900)
        await asyncio.sleep(0.01)
        assert server.connections, "closed before its time"
        clock.put_ahead(101)
        assert await peer.rest() == b""


async def test_a_slow_body_gets_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.http.body._BODY_TIMEOUT_S", 0.5)
    async with serving() as server:
        peer = await server.connect()
        peer.writer.write(_post(100) + b"{")
        status, headers, _ = await peer.answer()
        assert (status, headers["connection"]) == (408, "close")
        assert await peer.rest() == b""


async def test_a_body_that_nobody_reads_does_not_hold_its_connection() -> None:
    """The answer does not need it, so no route's time-out sees it."""
    async with serving(api_key=("k",)) as server:
        clock, peer = LoopClock(), await server.connect()
        peer.writer.write(_post(10_000))
        assert (await peer.answer())[0] == 401
        for _ in range(5):
            clock.put_ahead(LIMIT_S / 10)
            peer.writer.write(b" ")
            await asyncio.sleep(0.001)
            assert server.connections
        clock.put_ahead(LIMIT_S / 2)
        assert await peer.rest() == b""
        assert server.closed("body_timeout") == 1


async def test_a_connection_is_kept_after_a_body_that_came_behind_its_answer() -> None:
    async with serving(api_key=("k",), timeout_keep_alive=100) as server:
        clock, peer = LoopClock(), await server.connect()
        peer.writer.write(_post(4))
        assert (await peer.answer())[0] == 401
        peer.writer.write(b"{}  ")
        await until(lambda: not any(connection._late_body.is_counting for connection in server.connections))
        clock.put_ahead(LIMIT_S + 1)
        await asyncio.sleep(0.01)
        assert await peer.get() == 401
        clock.put_ahead(101)
        assert await peer.rest() == b""


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nx: " + b"y" * 300_000,
        b"GET /" + b"y" * 300_000,
        b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"x: y\r\n" * 5000,
        b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"x: y\r\n" * 300 + b"\r\n",
    ],
    ids=["line", "target", "lines without an end", "lines"],
)
async def test_a_head_that_is_too_large_gets_431(head: bytes) -> None:
    async with serving() as server:
        peer = await server.connect()
        peer.writer.write(head)
        status, headers, body = await peer.answer()
        assert (status, headers["connection"]) == (431, "close")
        assert json.loads(body)["error"]["code"] == "headers_too_large"


async def test_trailers_without_an_end_are_cut_off() -> None:
    async with serving() as server:
        peer = await server.connect()
        head = _post(0).replace(b"content-length: 0", b"transfer-encoding: chunked")
        peer.writer.write(head + b"2\r\n{}\r\n0\r\n" + b"x: y\r\n" * 5000)
        await peer.rest()
        assert server.closed("header_size") == 1


async def test_what_is_no_http_gets_400() -> None:
    async with serving() as server:
        peer = await server.connect()
        peer.writer.write(b"\x16\x03\x01\x00\xa5\x01\x00\r\n\r\n")
        status, _, body = await peer.answer()
        assert status == 400
        assert "not valid HTTP" in json.loads(body)["error"]["message"]
        assert await peer.rest() == b""


async def test_a_connection_too_many_gets_503_and_probes_are_answered() -> None:
    async with serving(max_connections=2) as server:
        held = [await server.connect() for _ in range(2)]
        assert [await peer.get() for peer in held] == [200, 200]

        refused = await server.connect()
        refused.writer.write(GET)
        status, headers, body = await refused.answer()
        assert (status, headers["connection"]) == (503, "close")
        assert int(headers["retry-after"]) > 0
        assert json.loads(body)["error"]["code"] == "too_many_connections"
        assert await refused.rest() == b""
        probe = await server.connect()
        probe.writer.write(GET.replace(b"/v1/models", b"/live"))
        status, headers, _ = await probe.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert await probe.rest() == b""

        surplus = [await server.connect() for _ in range(2)]  # one waits to be refused, one is dropped
        assert await surplus[1].rest() == b""
        surplus[0].writer.close()
        held[0].writer.close()
        await until(lambda: len(server.connections) == 1)
        assert await (await server.connect()).get() == 200


async def test_one_address_may_have_so_many() -> None:
    async with serving(max_connections_per_client=1) as server:
        first, second = await server.connect(), await server.connect()
        second.writer.write(GET)
        assert (await second.answer())[0] == 503
        assert await first.get() == 200


async def test_a_client_that_does_not_read_is_cut_off_and_its_request_ends() -> None:
    def endless(request: object) -> list[Step]:
        return [RequestOutput(id=request.id, new_ids=[97] * 20_000) for _ in range(1000)]  # type: ignore[attr-defined]

    client = FakeClient(endless)
    async with serving(client, http_write_timeout=0.5) as server:
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", server.port))
        body = json.dumps({"prompt": "a", "stream": True, "max_tokens": 99}).encode()
        await loop.sock_sendall(sock, _post(len(body)) + body)
        await until(lambda: client.streams and not client.num_open)
        assert client.streams[0].abort_reason is AbortReason.CLIENT_GONE
        assert server.closed("write_timeout") == 1
        sock.close()


async def test_a_client_that_reads_slowly_gets_everything() -> None:
    async with serving(FakeClient(says("a" * 60_000, per_step=100))) as server:
        peer = await server.connect()
        body = json.dumps({"prompt": "a", "stream": True, "max_tokens": 99}).encode()
        peer.writer.write(_post(len(body)) + body)
        received = b""
        async with asyncio.timeout(DEADLINE_S):
            while not received.endswith(b"0\r\n\r\n"):
                received += await peer.reader.read(4096)
                await asyncio.sleep(0.01)
        assert received.count(b"aaaa" * 25) == 600
        assert server.closed("write_timeout") == 0


async def test_an_upgrade_is_declined() -> None:
    async with serving() as server:
        peer = await server.connect()
        peer.writer.write(
            b"GET /live HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-key: x\r\nsec-websocket-version: 13\r\n\r\n"
        )
        assert (await peer.answer())[0] == 200
