"""What the server's log says when it is ready."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from server.commands.announcement import announce
from server.config import ServerConfig
from tests.helpers.fake_client import engine_info


def test_what_was_probably_not_meant_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    info = engine_info(notes=["chosen"], warnings=["the KV cache holds 32 tokens"])
    announce({"m": info}, SimpleNamespace(chat=None), "http://x", ServerConfig())  # type: ignore[arg-type]
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("INFO", "chosen"),
        ("WARNING", "the KV cache holds 32 tokens"),
    ]


@pytest.mark.parametrize(
    ("url", "call"),
    [
        ("https://127.0.0.1:8443", "curl -N https://127.0.0.1:8443/v1/completions -H"),
        ("unix:/run/my server.sock", "curl -N --unix-socket '/run/my server.sock' http://localhost/v1/completions -H"),
    ],
)
def test_the_command_to_paste_reaches_the_socket(url: str, call: str, capsys: pytest.CaptureFixture[str]) -> None:
    announce({"m": engine_info()}, SimpleNamespace(chat=None), url, ServerConfig())  # type: ignore[arg-type]
    told = capsys.readouterr().err
    assert f"headrace is ready at {url}\n" in told
    assert call in told


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
    announce({"m": engine_info()}, SimpleNamespace(chat=None), "http://x", ServerConfig(**options))  # type: ignore[arg-type]
    assert ("there is no key" in caplog.text) == is_warned
    assert ("Bearer YOUR_KEY" in capsys.readouterr().err) == (len(options) == 2)
