"""Through a Unix socket, and what proxies say there and over TCP."""

import asyncio
import json
import logging
from pathlib import Path

import pytest

from server.config.network import NetworkConfig
from tests.e2e.conftest import require_tool
from tests.helpers.deadline import DEADLINE_S
from tests.helpers.fake_client import MODEL
from tests.helpers.http_serving import GET, Peer, serving

REQUEST_LOG = "server.http.middleware.request_log"


def _clients(caplog: pytest.LogCaptureFixture) -> list[str | None]:
    """Of each request in the log."""
    return [vars(record)["fields"].get("client") for record in caplog.records if record.name == REQUEST_LOG]


async def test_curl_asks_through_a_unix_socket(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "socket"
    curl = require_tool("curl")
    async with serving(network=NetworkConfig(uds=str(path)), max_connections_per_client=1):
        idle = Peer(*await asyncio.open_unix_connection(path))  # who comes by a file is not one client
        process = await asyncio.create_subprocess_exec(
            *(curl, "-sS", "--unix-socket", str(path), "http://localhost/v1/models"), stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(DEADLINE_S):
            out, _ = await process.communicate()
        assert json.loads(out)["data"][0]["id"] == MODEL
        idle.writer.close()
    assert not path.exists()
    assert _clients(caplog) == [None]


async def test_a_proxys_word_is_taken_if_it_is_trusted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    forwarded = GET.replace(b"host: localhost", b"host: localhost\r\nx-forwarded-for: 6.6.6.6, 1.2.3.4")
    for network in (NetworkConfig(), NetworkConfig(forwarded_allow_ips=("127.0.0.1",))):
        async with serving(network=network) as server:
            peer = await server.connect()
            peer.writer.write(forwarded)
            assert (await peer.answer())[0] == 200
    assert _clients(caplog) == ["127.0.0.1", "1.2.3.4"]


async def test_a_trusted_proxys_connections_are_not_one_clients() -> None:
    network = NetworkConfig(forwarded_allow_ips=("127.0.0.1",))
    async with serving(network=network, max_connections_per_client=1) as server:
        peers = [await server.connect() for _ in range(3)]
        assert [await peer.get() for peer in peers] == [200, 200, 200]


async def test_a_prefix_may_be_taken_off_or_left_on() -> None:
    async with serving(root_path="/llm") as server:
        for path in (b"/v1/models", b"/llm/v1/models"):
            peer = await server.connect()
            peer.writer.write(GET.replace(b"/v1/models", path))
            assert (await peer.answer())[0] == 200


async def test_a_name_that_is_not_this_machines_is_refused_without_keys() -> None:
    for options, status in (({}, 421), ({"network": NetworkConfig(allowed_hosts=("page.example",))}, 200)):
        async with serving(**options) as server:  # type: ignore[arg-type]
            peer = await server.connect()
            peer.writer.write(GET.replace(b"localhost", b"page.example"))
            assert (await peer.answer())[0] == status
