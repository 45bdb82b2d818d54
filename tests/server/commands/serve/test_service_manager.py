"""Messages about the server's state for systemd, read from the other end of the socket."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.commands.serve.service_manager import ServiceManager
from tests.helpers.deadline import DEADLINE_S

pytestmark = pytest.mark.fast


@pytest.fixture
def other_end(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(DEADLINE_S)
        yield sock


def _told(sock: socket.socket) -> list[str]:
    return sock.recv(4096).decode().split("\n")


def test_the_states_of_a_server_are_told_in_their_order(other_end: socket.socket) -> None:
    manager = ServiceManager(other_end.getsockname(), None)
    manager.loading("demo")
    manager.ready("http://127.0.0.1:8000")
    manager.stopping()
    assert _told(other_end) == ["STATUS=Loading demo"]
    assert _told(other_end) == ["READY=1", "STATUS=Serving at http://127.0.0.1:8000"]
    assert _told(other_end)[0] == "STOPPING=1"
    manager.close()


def test_an_abstract_socket_begins_with_an_at_sign() -> None:
    name = f"headrace-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name)
        sock.settimeout(DEADLINE_S)
        manager = ServiceManager("@" + name, None)
        manager.ready("here")
        assert _told(sock)[0] == "READY=1"
        manager.close()


async def test_the_watchdog_hears_the_server_several_times_within_its_limit(other_end: socket.socket) -> None:
    variables = {"NOTIFY_SOCKET": other_end.getsockname(), "WATCHDOG_USEC": "30000", "WATCHDOG_PID": str(os.getpid())}
    manager = ServiceManager.from_environment(variables)
    pulse = asyncio.create_task(manager.pulse())
    for _ in range(3):
        assert await asyncio.to_thread(_told, other_end) == ["WATCHDOG=1"]
    assert not pulse.done()
    pulse.cancel()
    manager.close()


def test_processes_that_the_server_starts_do_not_inherit_the_variables() -> None:
    environ = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "HOME": "/"}
    ServiceManager.from_environment(environ)
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize(
    "variables", [{}, {"WATCHDOG_USEC": "1000000"}, {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}]
)
async def test_nobody_is_told_where_nobody_asked(variables: dict[str, str]) -> None:
    manager = ServiceManager.from_environment(variables)
    manager.ready("here")
    await manager.pulse()  # returns
    manager.close()


async def test_a_limit_that_is_for_another_process_asks_for_no_pulse(other_end: socket.socket) -> None:
    variables = {"NOTIFY_SOCKET": other_end.getsockname(), "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}
    manager = ServiceManager.from_environment(variables)
    await manager.pulse()  # returns
    manager.close()


def test_a_manager_that_is_gone_or_does_not_read_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ServiceManager(str(tmp_path / "none"), None).ready("here")
    assert "NOTIFY_SOCKET" in caplog.text
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "full"))
        manager = ServiceManager(str(tmp_path / "full"), None)
        for _ in range(1000):
            manager.ready("here")
    manager.stopping()
    manager.close()
