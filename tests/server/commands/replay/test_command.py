"""`headrace replay` against a server: what it sends, refuses and prints, and its exit code."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.errors import OptionError, StartupError
from server.commands.chat import connecting
from server.commands.options.definitions import CLIENT_KEY_VARIABLE
from server.commands.replay import command
from server.commands.replay.answers import read_answer
from tests.helpers.chat_templates import TOOL_TEMPLATE
from tests.helpers.fake_client import FINGERPRINT, FakeClient, engine_info, says
from tests.helpers.http_serving import serving

_CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
_TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
_CALL = '<tool_call>\n{"name": "find", "arguments": {"a": 1}}\n</tool_call>'
REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "completion": ("/v1/completions", {"prompt": "Hi", "logprobs": 2, "seed": 7, "max_tokens": 5}),
    "choices": ("/v1/completions", {"prompt": ["Hi", "Ho"], "n": 2, "seed": 7, "return_token_ids": True}),
    "chat": ("/v1/chat/completions", {**_CHAT, "seed": 7, "logprobs": True, "top_logprobs": 2}),
    "response": (
        "/v1/responses",
        {"input": "Hi", "temperature": 0, "include": ["message.output_text.logprobs"], "top_logprobs": 1},
    ),
}


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CLIENT_KEY_VARIABLE, raising=False)


async def _store(folder: Path, port: int, path: str, body: dict[str, Any]) -> None:
    """Write the request and the answer that the server gives to it."""
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.post(f"http://localhost:{port}{path}", json=body)
    assert answer.status_code == 200, answer.text
    (folder / "request").write_text(json.dumps(body))
    (folder / "response").write_bytes(answer.content)


async def _run(folder: Path, *arguments: str) -> int:
    return await asyncio.to_thread(command.run, [str(folder / "request"), str(folder / "response"), *arguments])


async def test_the_same_answer_whole_and_streamed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    client = FakeClient(says("hello"))
    async with serving(client) as server:
        for name, (path, body) in REQUESTS.items():
            for form in ({}, {"stream": True}):
                num_before = len(client.requests)
                await _store(tmp_path, server.port, path, {**body, **form})
                assert await _run(tmp_path, f"http://localhost:{server.port}") == 0
                shown = capsys.readouterr().out
                assert shown.startswith("same")
                assert ("with their log probabilities" in shown) is (name != "choices")
                assert "the server runs without --deterministic" in shown
                own = f"the stored answer has no system_fingerprint (the server's is {FINGERPRINT}), so"
                assert (own in shown) is (name == "response")
                assert len(client.requests) == num_before + 2 * (4 if name == "choices" else 1)


async def test_altered_deltas_of_a_response_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, body = REQUESTS["response"]
    async with serving(FakeClient(says("hello"))) as server:
        await _store(tmp_path, server.port, path, {**body, "stream": True})
        altered, num_altered = re.subn(rb'"delta":"h', b'"delta":"j', (tmp_path / "response").read_bytes())
        assert num_altered == 1
        (tmp_path / "response").write_bytes(altered)
        assert await _run(tmp_path, f"http://localhost:{server.port}") == 2
    message = capsys.readouterr().err
    assert "response contradicts itself: in item 0, its deltas have 'jello' where its last event has 'hello'" in message


async def test_the_same_tool_call_whole_and_streamed(tmp_path: Path) -> None:
    body = {**_CHAT, "temperature": 0, "tools": [_TOOL]}
    async with serving(FakeClient(says(_CALL)), chat_template=TOOL_TEMPLATE) as server:
        for form in ({}, {"stream": True}):
            await _store(tmp_path, server.port, "/v1/chat/completions", {**body, **form})
            assert b"tool_calls" in (tmp_path / "response").read_bytes()
            assert await _run(tmp_path, f"http://localhost:{server.port}") == 0


async def test_another_answer_is_shown_by_its_first_differing_token(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fingerprint = FINGERPRINT.replace("default", "deterministic").replace("0123456789ab", "ba9876543210")
    path, body = REQUESTS["completion"]
    async with serving(FakeClient(says("hello"))) as server:
        await _store(tmp_path, server.port, path, body)
    async with serving(FakeClient(says("help!"), engine_info(system_fingerprint=fingerprint))) as server:
        url = f"http://localhost:{server.port}"
        assert await _run(tmp_path, url) == 1
        lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
        assert await _run(tmp_path, url, "--json") == 1
    assert lines == [
        "different",
        "choice 0, token 3 (from 0):",
        'after     "hel"',
        'stored    "l"',
        'computed  "p"',
        "system_fingerprint: mode was default and is deterministic",
        "system_fingerprint: weights was 0123456789ab and is ba9876543210",
    ]
    result = json.loads(capsys.readouterr().out)
    assert result["is_same"] is False
    assert result["differences"][0]["position"] == 3
    assert [part["name"] for part in result["differing_parts"]] == ["mode", "weights"]


async def test_without_tokens_the_text_is_cut_by_the_models_tokenizer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(FakeClient(says("hello"))) as server:
        await _store(tmp_path, server.port, "/v1/chat/completions", {**_CHAT, "seed": 1})
    async with serving(FakeClient(says("help!"))) as server:
        assert await _run(tmp_path, f"http://localhost:{server.port}") == 1
    shown = capsys.readouterr().out
    assert "choice 0, text, token 3 (from 0):\n    counted in tokens of the texts;" in shown
    assert f"system_fingerprint is the same, {FINGERPRINT}" in shown


@pytest.mark.parametrize(
    ("default", "fields", "reason"),
    [
        ({}, {}, "has no seed, and the server's default temperature is 1,"),
        ({"temperature": 0.6}, {}, "the server's default temperature is 0.6,"),
        ({"temperature": 0.0}, {"temperature": 0.7}, "its temperature is 0.7,"),
    ],
)
async def test_an_answer_that_was_drawn_is_refused(
    default: dict[str, float],
    fields: dict[str, Any],
    reason: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    client = FakeClient(says("hello"), engine_info(generation_defaults=default))
    async with serving(client) as server:
        await _store(tmp_path, server.port, "/v1/completions", {"prompt": "Hi", **fields})
        assert await _run(tmp_path, f"http://localhost:{server.port}") == 2
        message = capsys.readouterr().err
        assert reason in message
        assert "only answers to requests with a seed or with temperature 0 can be replayed" in message
        assert len(client.requests) == 1


async def test_a_default_temperature_of_0_is_enough(tmp_path: Path) -> None:
    client = FakeClient(says("hello"), engine_info(generation_defaults={"temperature": 0.0}))
    async with serving(client) as server:
        await _store(tmp_path, server.port, "/v1/completions", {"prompt": "Hi"})
        assert await _run(tmp_path, f"http://localhost:{server.port}") == 0


@pytest.mark.parametrize(
    ("request_text", "message"),
    [
        ("nonsense", "request is not JSON"),
        ("[]", "request is not a JSON object"),
        ('{"messages": []}', "request has no prompt, but the answer is one of /v1/completions"),
        ('{"prompt": "Hi", "seed": 1, "max_tokens": -1}', "400: max_tokens"),
        ('{"prompt": "Hi", "seed": 1, "model": "other/model"}', "other/model"),
    ],
)
async def test_another_request_is_refused(
    request_text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(FakeClient(says("hello"))) as server:
        await _store(tmp_path, server.port, "/v1/completions", {"prompt": "Hi", "seed": 1})
        (tmp_path / "request").write_text(request_text)
        assert await _run(tmp_path, f"http://localhost:{server.port}") == 2
    assert message in capsys.readouterr().err


def test_a_replay_is_neither_streamed_nor_stored(tmp_path: Path) -> None:
    body = {"input": "Hi", "seed": 1, "stream": True, "background": True, "metadata": {"a": "b"}}
    (tmp_path / "request").write_text(json.dumps(body))
    stored = read_answer(b'{"object": "response", "status": "completed", "output": []}', "it")
    assert command._request(str(tmp_path / "request"), stored) == {
        **{"input": "Hi", "seed": 1, "metadata": {"a": "b"}},
        "store": False,
    }


async def test_what_changes_the_server_is_not_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "request").write_text('{"input": "Hi", "conversation": "conv_1", "seed": 1}')
    (tmp_path / "response").write_text('{"object": "response", "status": "completed", "output": []}')
    assert await _run(tmp_path, "http://localhost:9") == 2
    assert "give the conversation's items in input" in capsys.readouterr().err


async def test_options_are_for_a_new_server(tmp_path: Path) -> None:
    (tmp_path / "request").write_text('{"prompt": "Hi", "seed": 1}')
    (tmp_path / "response").write_text('{"object": "text_completion", "choices": []}')
    for where, server in (([], "a server that runs"), (["http://localhost:9"], "http://localhost:9")):
        with pytest.raises(OptionError, match=f"--deterministic is for a new server, not for {server}; name a MODEL"):
            await _run(tmp_path, *where, "--deterministic")


@pytest.mark.parametrize(
    ("variable", "server"),
    [(None, "a new server for the demo model, since none runs at http://127.0.0.1:8000"), ("m", "a new server for m,")],
)
async def test_the_server_is_named_before_it_is_started(
    variable: str | None,
    server: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(model: str | None, arguments: list[str]) -> None:
        assert f"compares with {server}" in capsys.readouterr().err
        raise StartupError(f"{model} with {arguments}")

    monkeypatch.delenv("HEADRACE_MODEL", raising=False)
    if variable is not None:
        monkeypatch.setenv("HEADRACE_MODEL", variable)
    monkeypatch.setattr(connecting, "is_running", lambda: False)
    monkeypatch.setattr(connecting, "start_server", fails)
    (tmp_path / "request").write_text('{"prompt": "Hi", "seed": 1}')
    (tmp_path / "response").write_text('{"object": "text_completion", "choices": []}')
    assert await _run(tmp_path) == 2
    assert "None with []" in capsys.readouterr().err


async def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await _run(tmp_path) == 2
    assert f"cannot read {tmp_path}/response: No such file" in capsys.readouterr().err


def test_a_new_server_has_the_name_and_options_that_are_given() -> None:
    arguments = command.replay_parser().parse_args(
        ["a", "b", "model.gguf", "--deterministic", "--no-enable-prefix-caching", "--threads", "2"]
    )
    assert command._serve_arguments(arguments, {"model": "demo"}) == [
        "--deterministic",
        "--no-enable-prefix-caching",
        "--threads=2",
        "--served-model-name=demo",
    ]
    assert command._serve_arguments(command.replay_parser().parse_args(["a", "b", "m"]), {}) == []
