"""HTTPS: real clients, certificates of clients, and certificates that change while the server runs."""

import asyncio
import json
import logging
import shutil
import socket
import ssl
from pathlib import Path

import openai
import pytest

from server.config.network import NetworkConfig
from tests.e2e.conftest import require_tool
from tests.helpers.certificates import Authority, Issued
from tests.helpers.deadline import DEADLINE_S, until
from tests.helpers.fake_client import MODEL, FakeClient, says
from tests.helpers.http_serving import GET, LIMIT_S, serving
from tests.helpers.loop_clock import LoopClock


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def own(authority: Authority) -> Issued:
    return authority.issue("server")


def _network(own: Issued, **more: object) -> NetworkConfig:
    return NetworkConfig(ssl_certfile=own.cert, ssl_keyfile=own.key, **more)  # type: ignore[arg-type]


def _client(authority: Authority, shown: Issued | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.cert)
    if shown is not None:
        context.load_cert_chain(shown.cert, shown.key)
    return context


async def _run(*command: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(DEADLINE_S):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_openais_client_streams_over_tls(authority: Authority, own: Issued) -> None:
    async with serving(FakeClient(says("hello" * 100)), _network(own)) as server:
        http = openai.DefaultAsyncHttpxClient(verify=_client(authority), trust_env=False)
        async with openai.AsyncOpenAI(
            base_url=f"https://localhost:{server.port}/v1", api_key="-", http_client=http
        ) as client:
            stream = await client.completions.create(model=MODEL, prompt="a", stream=True, max_tokens=99)
            text = "".join([chunk.choices[0].text async for chunk in stream if chunk.choices])
    assert text == "hello" * 100


async def test_curl_speaks_tls_and_old_versions_are_refused(authority: Authority, own: Issued) -> None:
    curl = require_tool("curl")
    async with serving(network=_network(own)) as server:
        url = f"https://localhost:{server.port}/v1/models"
        code, out, err = await _run(curl, "-sS", "--noproxy", "*", "--cacert", authority.cert, url)
        assert (code, json.loads(out)["data"][0]["id"]) == (0, MODEL), err
        code, _, err = await _run(curl, "-sS", "--noproxy", "*", "--cacert", authority.cert, "--tls-max", "1.1", url)
        assert code == 35, err
        assert server.closed("tls_handshake") == 1


async def test_plain_http_on_the_tls_port_is_told_so(own: Issued) -> None:
    async with serving(network=_network(own)) as server:
        peer = await server.connect()
        peer.writer.write(GET)
        answer = await peer.rest()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.endswith(b"\r\n\r\nthis port speaks HTTPS; use https://\n")
        assert server.closed("tls_handshake") == 1


async def test_a_handshake_that_does_not_end_is_cut_off_and_counts_as_a_connection(
    authority: Authority, own: Issued
) -> None:
    async with serving(network=_network(own), max_connections=2) as server:
        clock = LoopClock()
        silent, begun = await server.connect(), await server.connect()
        begun.writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        refused = await server.connect(_client(authority))
        assert await refused.get() == 503
        clock.put_ahead(LIMIT_S + 1)
        assert await silent.rest() == b""
        assert await begun.rest() == b""
        assert server.closed("header_timeout") == 2
        assert await (await server.connect(_client(authority))).get() == 200


async def test_only_clients_with_a_certificate_are_served_and_the_log_names_them(
    authority: Authority, own: Issued, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    alice = authority.issue("alice", "/C=CH/O=Example, Inc/CN=alice smith")
    mallory = Authority(tmp_path / "other").issue("mallory", "/CN=alice")
    async with serving(network=_network(own, ssl_ca_certs=authority.cert)) as server:
        peer = await server.connect(_client(authority, alice))
        assert await peer.get() == 200
        assert await peer.get() == 200
        for shown in (None, mallory):
            stranger = await server.connect(_client(authority, shown))
            stranger.writer.write(GET)
            with pytest.raises(ssl.SSLError, match=r"certificate required|unknown ca"):
                await stranger.reader.read()
        assert server.closed("tls_handshake") == 2
    lines = [vars(record)["fields"] for record in caplog.records if record.name == "server.http.middleware.request_log"]
    assert [line["client_subject"] for line in lines] == [r"CN=alice\20smith,O=Example\2c\20Inc,C=CH"] * 2


async def test_a_changed_certificate_is_taken_up_and_connections_stay(
    authority: Authority, own: Issued, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = Issued(str(tmp_path / "cert"), str(tmp_path / "key"))

    def put(issued: Issued) -> None:
        shutil.copy(issued.cert, files.cert)
        shutil.copy(issued.key, files.key)

    async def shown(peer_context: ssl.SSLContext) -> str:
        peer = await server.connect(peer_context)
        certificate = peer.writer.get_extra_info("peercert")
        peer.writer.close()
        return str(dict(pair for group in certificate["subject"] for pair in group)["commonName"])

    put(own)
    client = _client(authority)
    async with serving(network=_network(files)) as server:
        assert server.certificates is not None
        watching = asyncio.create_task(server.certificates.watch(0.02))
        old = await server.connect(client)
        assert await old.get() == 200
        assert await shown(client) == "localhost"

        Path(files.cert).write_text("not yet written")
        await until(lambda: "the certificate stays as it was" in caplog.text)
        assert await shown(client) == "localhost"
        put(authority.issue("next", "/CN=next"))
        async with asyncio.timeout(DEADLINE_S):
            while await shown(client) != "next":
                await asyncio.sleep(0.02)
        assert await old.get() == 200
        watching.cancel()
    assert caplog.text.count("the certificate stays as it was") == 1


async def test_a_client_that_does_not_read_is_cut_off(authority: Authority, own: Issued) -> None:
    """Also when the whole answer was written at once, and waits in the transport."""
    async with serving(network=_network(own), http_write_timeout=0.5) as server:
        sock = socket.create_connection(("127.0.0.1", server.port))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader, writer = await asyncio.open_connection(sock=sock, ssl=_client(authority), server_hostname="localhost")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nhost: localhost\r\n\r\n" * 4)
        await until(lambda: server.closed("write_timeout"))
        assert not reader.at_eof()
        writer.transport.abort()
