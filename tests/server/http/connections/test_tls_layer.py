"""TLS over a transport in memory: whatever the pieces in which bytes come, the protocol inside gets what was sent."""

import asyncio
import random
import ssl
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.config.network import NetworkConfig
from server.http.connections.certificates import make_context
from server.http.connections.tls_layer import TlsLayer
from tests.helpers.certificates import Authority


class Wire(asyncio.Transport):
    """Keeps what the server sends."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.is_closed = False

    def write(self, data: Any) -> None:
        assert not self.is_closed
        self.sent += data

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def take(self) -> bytes:
        taken = bytes(self.sent)
        self.sent.clear()
        return taken


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.transport.write(data)


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's and a client's."""
    authority = Authority(tmp_path_factory.mktemp("tls"))
    own = authority.issue("server")
    server = make_context(NetworkConfig(ssl_certfile=own.cert, ssl_keyfile=own.key))
    return server, ssl.create_default_context(cafile=authority.cert)


class Exchange:
    """A client and a server, and the bytes between them."""

    def __init__(self, contexts: tuple[ssl.SSLContext, ssl.SSLContext], cut: random.Random) -> None:
        server, client = contexts
        self.echo, self.wire, self.failures = Echo(), Wire(), 0
        self.layer = TlsLayer(server, self.echo, self._fail)
        self.layer.connection_made(self.wire)
        self._from_server, self._to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = client.wrap_bio(self._from_server, self._to_server, server_hostname="localhost")
        self._cut = cut

    def _fail(self) -> None:
        self.failures += 1

    def carry(self) -> None:
        """Bring both sides what the other has sent, in pieces."""
        data = self._to_server.read()
        while data:
            size = self._cut.choice((1, 5, 100, 20_000))
            self.layer.data_received(data[:size])
            data = data[size:]
        self._from_server.write(self.wire.take())

    def shake_hands(self) -> None:
        for _ in range(10):
            try:
                self.client.do_handshake()
            except ssl.SSLWantReadError:
                self.carry()
            else:
                return
        raise AssertionError("the handshake does not end")

    def read(self) -> bytes:
        read = b""
        try:
            while piece := self.client.read(100_000):
                read += piece
        except ssl.SSLWantReadError:
            pass
        return read


@settings(max_examples=40, deadline=None)
@given(messages=st.lists(st.binary(min_size=1, max_size=40_000), max_size=4), seed=st.integers(0, 2**32))
def test_bytes_arrive_whole_and_in_order(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], messages: list[bytes], seed: int
) -> None:
    exchange = Exchange(contexts, random.Random(seed))
    exchange.shake_hands()
    echoed = b""
    for message in messages:
        exchange.client.write(message)
        exchange.carry()
        echoed += exchange.read()
    assert exchange.echo.received == echoed == b"".join(messages)
    assert exchange.failures == 0


@settings(max_examples=40, deadline=None)
@given(garbage=st.binary(min_size=1, max_size=300), seed=st.integers(0, 2**32))
def test_garbage_ends_the_connection_or_waits(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], garbage: bytes, seed: int
) -> None:
    exchange = Exchange(contexts, random.Random(seed))
    exchange._to_server.write(garbage)
    exchange.carry()
    assert exchange.echo.received == b""
    assert exchange.failures == exchange.wire.is_closed


def test_an_end_on_either_side_closes(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    exchange = Exchange(contexts, random.Random(1))
    exchange.shake_hands()
    exchange.carry()
    exchange.echo.transport.close()
    assert exchange.echo.transport.is_closing()
    exchange.carry()
    assert exchange.read() == b""  # the server's word, and no mere end of bytes

    exchange = Exchange(contexts, random.Random(1))
    exchange.shake_hands()
    with pytest.raises(ssl.SSLWantReadError):
        exchange.client.unwrap()
    exchange.carry()
    assert exchange.wire.is_closed


def test_bytes_that_were_changed_on_the_way_end_the_connection(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    exchange = Exchange(contexts, random.Random(1))
    exchange.shake_hands()
    exchange.client.write(b"hello")
    data = bytearray(exchange._to_server.read())
    data[-1] ^= 1
    exchange.layer.data_received(bytes(data))
    assert exchange.echo.received == b""
    assert exchange.wire.is_closed
