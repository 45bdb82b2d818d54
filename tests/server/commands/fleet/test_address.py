"""An --address of a cluster at which none can be is refused at once, before Ray is loaded."""

import socket
from contextlib import nullcontext

import pytest

from engine.errors import OptionError, StartupError
from server.commands.child_process import free_port
from server.commands.fleet.cluster import running_cluster

pytestmark = pytest.mark.fast


def connect(address: str) -> None:
    with running_cluster(address, shows_logs=False):
        raise AssertionError("it connected")


def test_nothing_that_listens_is_said_with_how_to_start_a_cluster() -> None:
    port = free_port()
    remedy = rf"--address 127\.0\.0\.1:{port} \(Connection refused\); start .*: ray start --head --port {port}$"
    with pytest.raises(StartupError, match=remedy):
        connect(f"127.0.0.1:{port}")


@pytest.mark.parametrize("address", ["127.0.0.1", "head:port", ":6379", "head:70000"])
def test_it_must_be_a_host_and_a_port(address: str) -> None:
    with pytest.raises(OptionError, match=f"--address is {address}; it must be HOST:PORT"):
        connect(address)


def test_an_address_at_which_something_listens_is_left_to_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "server.commands.fleet.cluster._connected", lambda address, **_: nullcontext(f"head of {address}")
    )
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        with running_cluster(address, shows_logs=False) as found:
            assert found == f"head of {address}"
