"""SIGHUP: files are read again; a service without any goes on, and a server in a terminal ends with it."""

import asyncio
import logging
import os
import signal

import pytest

from server.commands.serve import signals
from server.commands.serve.signals import on_hangup
from tests.helpers.deadline import until

pytestmark = [
    pytest.mark.fast,
    pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="the system has no SIGHUP"),
]


@pytest.mark.parametrize("has_terminal", [False, True])
async def test_each_action_is_called(has_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "has_terminal", lambda: has_terminal)
    called: list[str] = []
    on_hangup(lambda: called.append("keys"), lambda: called.append("certificates"))
    try:
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: called == ["keys", "certificates"])
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)


async def test_a_service_without_files_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(signals, "has_terminal", lambda: False)
    on_hangup()
    try:
        assert signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: "there are no files to reload" in caplog.text)
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)


async def test_a_server_in_a_terminal_without_files_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "has_terminal", lambda: True)
    before = signal.getsignal(signal.SIGHUP)
    on_hangup()
    assert signal.getsignal(signal.SIGHUP) is before
