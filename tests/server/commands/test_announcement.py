"""What the server's log says when it is ready."""

import logging
from types import SimpleNamespace

import pytest

from server.commands import serve
from server.config import ServerConfig
from tests.helpers.fake_client import engine_info


def test_what_was_probably_not_meant_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    info = engine_info(notes=["chosen"], warnings=["the KV cache holds 32 tokens"])
    serve._announce(info, SimpleNamespace(chat=None), "http://x", ServerConfig())  # type: ignore[arg-type]
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("INFO", "chosen"),
        ("WARNING", "the KV cache holds 32 tokens"),
    ]
