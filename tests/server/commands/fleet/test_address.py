"""An address of a cluster at which none can be is refused immediately, before Ray is loaded."""

import socket
from contextlib import nullcontext
from pathlib import Path

import pytest

from engine.errors import OptionError, StartupError
from server.commands.child_process import free_port
from server.commands.fleet import addresses
from server.commands.fleet.addresses import check_recorded
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


def recorded(folder: Path, address: str) -> dict[str, str]:
    """Variables with which Ray finds the address of a cluster in a file below `folder`."""
    (folder / "ray").mkdir()
    (folder / "ray" / "ray_current_cluster").write_text(address)
    return {"RAY_TMPDIR": str(folder)}


def test_the_file_of_a_killed_cluster_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_running_here", set)
    environ = recorded(tmp_path, f"127.0.0.1:{free_port()}")
    file = tmp_path / "ray" / "ray_current_cluster"
    with pytest.raises(
        StartupError, match=rf"^{file} names .* \(Connection refused\); if it has ended, delete the file"
    ):
        check_recorded(environ)


def test_the_file_has_no_effect_beside_one_running_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_running_here", lambda: {b"127.0.0.1:1"})
    check_recorded(recorded(tmp_path, f"127.0.0.1:{free_port()}"))


def test_no_file_and_a_cluster_that_answers_are_left_to_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_running_here", set)
    check_recorded({"RAY_TMPDIR": str(tmp_path)})
    with socket.create_server(("127.0.0.1", 0)) as listening:
        check_recorded(recorded(tmp_path, f"127.0.0.1:{listening.getsockname()[1]}"))


def test_an_address_of_a_variable_at_which_nothing_listens_is_refused() -> None:
    with pytest.raises(StartupError, match=r"RAY_ADDRESS is .*; unset or correct it"):
        check_recorded({"RAY_ADDRESS": f"127.0.0.1:{free_port()}"})
    check_recorded({"RAY_ADDRESS": "auto"})
