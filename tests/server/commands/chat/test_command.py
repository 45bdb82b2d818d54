"""`headrace ps`, `top` and `complete` against a server: what they print, and what they say if it will not have them."""

import asyncio
import logging
import socket
from pathlib import Path

import pytest

from engine.config import EngineConfig
from engine.errors import OptionError, StartupError
from engine.protocol import RequestOutput, StepStats
from server import cli
from server.batches.running import run_body
from server.commands.chat import command
from server.commands.chat.client import ChatClient
from server.commands.options.definitions import CLIENT_KEY_VARIABLE
from server.config.models import ModelEntry, ModelsConfig
from server.config.network import NetworkConfig
from server.keys.caller import ANYBODY
from tests.helpers.certificates import Authority
from tests.helpers.fake_client import MODEL, FakeClient, pooling_client, says
from tests.helpers.http_serving import Served, serving


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (CLIENT_KEY_VARIABLE, "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)


def _url(server: Served, scheme: str = "http") -> str:
    return f"{scheme}://localhost:{server.port}"


async def _run(name: str, *arguments: str) -> int:
    return await asyncio.to_thread(getattr(command, f"run_{name}"), arguments)


@pytest.mark.parametrize("name", ["ps", "top"])
async def test_without_a_terminal_one_picture_is_printed(
    name: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "server.http.middleware.request_log")
    async with serving(FakeClient(says("some text"))) as server:
        await _run("complete", "Hello", _url(server), "--max-tokens", "9")
        capsys.readouterr()
        assert await _run(name, _url(server)) == 0
    shown = capsys.readouterr().out
    assert "ready  ·  0 open  ·  0 running, 0 waiting" in shown
    assert ("/v1/completions" in shown) is (name == "top")  # it shows what has ended, too
    assert "GET /dashboard/events 200" in caplog.text
    assert " 499 " not in caplog.text


async def test_a_line_separator_in_an_answer_does_not_cut_its_event(capsys: pytest.CaptureFixture[str]) -> None:
    async with serving(FakeClient(says("one\u2028two"))) as server:
        assert await _run("complete", "Hello", _url(server), "--max-tokens", "20") == 0
    assert "one\u2028two" in capsys.readouterr().out


async def test_ps_lists_each_of_several_models(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("alpha", "beta")
    entries = tuple(ModelEntry((name,), EngineConfig(model=name)) for name in names)
    clients = {name: FakeClient(says(name)) for name in names}
    async with serving(clients, models=ModelsConfig(entries)) as server:
        assert await _run("ps", _url(server)) == 0
    shown = capsys.readouterr().out
    assert f"alpha, beta at {_url(server)}" in shown
    assert all(f"{name}: ready  ·  0 open" in shown for name in names)


async def test_top_shows_each_of_several_models_and_their_requests_together(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("alpha", "beta")
    entries = tuple(ModelEntry((name,), EngineConfig(model=name)) for name in names)
    clients = {name: FakeClient(says(name)) for name in names}
    async with serving(clients, models=ModelsConfig(entries)) as server:
        for name in names:
            await _run("complete", "Hello", _url(server), "--served-model", name, "--max-tokens", "9")
        capsys.readouterr()
        assert await _run("top", _url(server)) == 0
        shown = capsys.readouterr().out.splitlines()
        with ChatClient(_url(server), None) as client:
            frames, seen = command.frames_of_all(client, names), set[str]()
            while seen != set(names):
                seen.add((await asyncio.to_thread(next, frames))[0])
    assert [line.split()[0] for line in shown if "ready  ·" in line] == [*names]
    assert {line.split()[1] for line in shown if "/v1/completions" in line} == {*names}


async def test_top_and_ps_show_lines_of_batches(capsys: pytest.CaptureFixture[str]) -> None:
    client = FakeClient(lambda _: [RequestOutput(id="x", new_ids=[65], queue_s=0.0), None])
    async with serving(client) as server:
        body = {"model": MODEL, "prompt": "Hello", "max_tokens": 9}
        line = asyncio.create_task(run_body(server.context, ANYBODY, "/v1/completions", body))
        while not any(each.state == "running" for each in server.context.live.requests.open()):
            assert not line.done(), line.result()
            await asyncio.sleep(0)
        for stats, told in (
            (StepStats(running_batch=1, waiting_batch=2), "batch lines: 1 running, 2 waiting"),
            (StepStats(running=1, paused_batch=1), "1 running, 0 waiting  ·  batch lines: 1 paused"),
        ):
            server.context.live.on_step(stats)
            for name in ("top", "ps"):
                assert await _run(name, _url(server)) == 0
                shown = capsys.readouterr().out
                assert told in shown
                assert "batch /v1/completions" in shown
        line.cancel()
    assert "paused" in next(row for row in shown.splitlines() if "batch /v1" in row)


async def test_a_model_that_computes_embeddings_is_not_chosen_for_a_chat() -> None:
    names = ("embedder", "talker")
    entries = tuple(ModelEntry((name,), EngineConfig(model=name)) for name in names)
    clients = {"embedder": pooling_client(), "talker": FakeClient(says("hello"))}
    async with serving(clients, models=ModelsConfig(entries)) as server:
        with ChatClient(_url(server), None) as client:
            assert await asyncio.to_thread(client.models) == [*names]
            assert await asyncio.to_thread(client.chat_models) == ["talker"]


async def test_a_missing_or_wrong_key_is_told_in_the_words_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "key"
    file.write_text("wrong\n")
    async with serving(api_key=("right",)) as server:
        with pytest.raises(StartupError, match=r"401: \S+ requires a key; put it into HEADRACE_CLIENT_KEY, or into"):
            await _run("ps", _url(server))
        with pytest.raises(StartupError, match=rf"refuses the key from --key-file {file} \(the request has no"):
            await _run("ps", _url(server), "--key-file", str(file))
        monkeypatch.setenv(CLIENT_KEY_VARIABLE, "right")
        assert await _run("ps", _url(server)) == 0


async def test_an_authority_of_ones_own_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    authority = Authority(tmp_path)
    own = authority.issue("server")
    async with serving(network=NetworkConfig(ssl_certfile=own.cert, ssl_keyfile=own.key)) as server:
        url = _url(server, "https")
        with pytest.raises(StartupError, match="name the authority that signed its certificate with --ca-file"):
            await _run("ps", url)
        assert await _run("ps", url, "--ca-file", authority.cert) == 0
        monkeypatch.setenv("SSL_CERT_FILE", authority.cert)
        assert await _run("complete", "Hello", url, "--max-tokens", "9") == 0
    assert capsys.readouterr().out.endswith("x\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ca-file", "/nowhere/ca.pem"], "--ca-file /nowhere/ca.pem: No such file"),
        (["--ca-file", __file__], "has no certificate in PEM form"),
        (["--key-file", "/nowhere/key"], "--key-file /nowhere/key: No such file"),
        (["--key-fil", "x"], "unknown option --key-fil; did you mean --key-file?"),
        (["http://a", "http://b"], "unexpected argument http://b"),
    ],
)
def test_what_is_wrong_is_told(arguments: list[str], message: str) -> None:
    with pytest.raises(OptionError) as raised:
        command.run_ps(arguments)
    assert message in str(raised.value)


def test_a_server_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as bound:  # and nobody listens
        bound.bind(("127.0.0.1", 0))
        assert cli.main(["top", f"http://127.0.0.1:{bound.getsockname()[1]}"]) == 1
    shown = capsys.readouterr().err
    assert "cannot be reached" in shown
    assert "serve, or give the address of a running one" in shown
