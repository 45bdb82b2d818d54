"""Faults are injected into a server that is for tests, and into no other."""

import pytest

from engine.child_processes.fault_plan import VARIABLE
from engine.errors import OptionError
from server.commands.serve.command import fault_plan
from server.config.server import ServerConfig

pytestmark = pytest.mark.fast


def test_a_server_fails_on_purpose_only_if_it_was_told_twice(caplog: pytest.LogCaptureFixture) -> None:
    for_tests = ServerConfig(enable_fault_injection=True)
    assert fault_plan(ServerConfig(), {}) is None
    assert fault_plan(for_tests, {}) is None
    with pytest.raises(OptionError, match="--enable-fault-injection"):
        fault_plan(ServerConfig(), {VARIABLE: "step:kill:1"})
    assert fault_plan(for_tests, {VARIABLE: "step:kill:1"}) is not None
    assert "it is for tests" in caplog.text
