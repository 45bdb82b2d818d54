"""Log lines and the example of a request when the server is ready."""

import errno
import io
import logging
import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from engine.command_io.program import program
from engine.protocol import PoolingTask
from server.commands.serve.announcement import announce, announce_loading
from server.config.server import LogLevel, ServerConfig
from tests.helpers.fake_client import engine_info
from tests.helpers.fake_pooling import pooling_info


def test_what_was_probably_not_meant_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    info = engine_info(notes=["chosen"], warnings=["the KV cache holds 32 tokens"])
    announce({"m": info}, SimpleNamespace(chat=None), "http://x", ServerConfig(), is_drawn=False)  # type: ignore[arg-type]
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("INFO", "chosen"),
        ("WARNING", "the KV cache holds 32 tokens"),
    ]


class _FullDisk(io.StringIO):
    def write(self, _: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("is_drawn", [False, True])
def test_a_full_disk_is_no_reason_not_to_serve(is_drawn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", _FullDisk())
    told: dict[str, Any] = {"url": "http://x", "config": ServerConfig(), "is_drawn": is_drawn}
    announce_loading(what="m", **told)
    announce({"m": engine_info()}, SimpleNamespace(chat=None), **told)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "call"),
    [
        ("https://127.0.0.1:8443", "curl -N https://127.0.0.1:8443/v1/completions -H"),
        ("unix:/run/my server.sock", "curl -N --unix-socket '/run/my server.sock' http://localhost/v1/completions -H"),
    ],
)
def test_the_command_to_paste_reaches_the_socket(url: str, call: str, capsys: pytest.CaptureFixture[str]) -> None:
    announce({"m": engine_info()}, SimpleNamespace(chat=None), url, ServerConfig(), is_drawn=False)  # type: ignore[arg-type]
    told = capsys.readouterr().err
    assert f"headrace is ready at {url}\n" in told
    assert call in told


@pytest.mark.parametrize(
    ("task", "path"),
    [
        (PoolingTask.EMBED, "/v1/embeddings"),
        (PoolingTask.SCORE, "/v1/rerank"),
        (PoolingTask.CLASSIFY, "/classify"),
    ],
)
def test_the_command_to_paste_is_one_that_a_pooling_model_answers(
    task: PoolingTask, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    info = engine_info(pooling=pooling_info(tasks=[task]))
    announce({"m": info}, SimpleNamespace(chat=object()), "http://x", ServerConfig(), is_drawn=False)  # type: ignore[arg-type]
    told = capsys.readouterr().err
    assert f"http://x{path} " in told
    assert "Terminal" not in told
    assert "Chat page" not in told


@pytest.mark.parametrize(
    ("options", "is_warned"),
    [
        ({}, False),
        ({"host": "0.0.0.0"}, True),
        ({"host": "0.0.0.0", "api_key": ("key",)}, False),
        ({"host": "0.0.0.0", "api_keys_file": "keys.yaml"}, False),
    ],
)
def test_a_server_that_is_open_to_all_says_so(
    options: dict[str, Any], is_warned: bool, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ServerConfig(**options)
    announce({"m": engine_info()}, SimpleNamespace(chat=None), "http://x", config, is_drawn=False)  # type: ignore[arg-type]
    assert ("there is no key" in caplog.text) == is_warned
    assert ("Bearer YOUR_KEY" in capsys.readouterr().err) == (len(options) == 2)


def test_a_panel_has_notes_in_its_rows_and_warnings_above_it(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    info = engine_info(notes=["Attention: cpu"], warnings=["the KV cache holds 32 tokens"])
    announce({"m": info}, SimpleNamespace(chat=object()), "http://127.0.0.1:8000", ServerConfig(), is_drawn=True)  # type: ignore[arg-type]
    assert caplog.messages == ["the KV cache holds 32 tokens"]
    told = capsys.readouterr().err
    for words in (
        "is ready",
        "Dashboard  http://127.0.0.1:8000/dashboard\n",
        f"Terminal   {program()} chat\n",
        "curl -N http",
    ):
        assert words in told


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({}, "not required on this machine"),
        ({"host": "0.0.0.0"}, "none, so anyone who can reach this address can use it"),
        ({"api_key": ("secret-key",)}, "required"),
        ({"api_keys_file": "keys.yaml"}, "required, from keys.yaml"),
    ],
)
def test_the_panel_says_who_may_call_and_tells_no_key(
    options: dict[str, Any], keys: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ServerConfig(**options)
    announce({"m": engine_info()}, SimpleNamespace(chat=None), "http://127.0.0.1:8000", config, is_drawn=True)  # type: ignore[arg-type]
    told = capsys.readouterr().err
    assert re.search(rf"Keys +{keys} ", told)
    assert "secret-key" not in told


@pytest.mark.parametrize("is_drawn", [True, False])
def test_who_wants_warnings_alone_gets_no_panel(is_drawn: bool, capsys: pytest.CaptureFixture[str]) -> None:
    config = ServerConfig(log_level=LogLevel.WARNING)
    announce_loading("http://x", "demo", config, is_drawn=is_drawn)
    announce({"m": engine_info()}, SimpleNamespace(chat=None), "http://x", config, is_drawn=is_drawn)  # type: ignore[arg-type]
    assert capsys.readouterr().err == ""


def test_a_unix_socket_has_no_pages(capsys: pytest.CaptureFixture[str]) -> None:
    config = ServerConfig()
    announce({"m": engine_info()}, SimpleNamespace(chat=object()), "unix:/run/s", config, is_drawn=True)  # type: ignore[arg-type]
    told = capsys.readouterr().err
    assert "Dashboard" not in told
    assert "Terminal" not in told
