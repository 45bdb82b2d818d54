"""Binding the port: what is said when that cannot be."""

import os
import socket
import stat
from pathlib import Path

import pytest

from engine.errors import StartupError
from server.commands.serve.listener import is_for_this_machine, listen, listen_unix, listening, url_of
from server.config.network import NetworkConfig
from server.config.server import ServerConfig
from tests.helpers.deadline import DEADLINE_S

pytestmark = pytest.mark.fast


def test_a_free_port_is_picked_and_told() -> None:
    with listen("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
        assert url_of(sock) == f"http://127.0.0.1:{port}"
        with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S):
            pass  # it listens already


def test_every_interface_is_told_as_the_one_that_works_here() -> None:
    with listen("0.0.0.0", 0) as sock:
        assert url_of(sock).startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example", False),
    ],
)
def test_who_reaches_a_host(host: str, expected: bool) -> None:
    assert is_for_this_machine(host) is expected


def test_a_port_in_use_is_named_with_the_remedy() -> None:
    with listen("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(StartupError, match=rf"cannot listen on 127\.0\.0\.1:{port}: another program .* --port"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_that_is_not_ours_is_named(host: str) -> None:
    with pytest.raises(StartupError, match=rf"cannot listen on {host}.*choose another --host"):
        listen(host, 0)


def test_accepted_sockets_notice_that_their_client_is_lost() -> None:
    with (
        listening(ServerConfig(port=0, http_write_timeout=7)) as sock,
        socket.create_connection(sock.getsockname(), timeout=DEADLINE_S),
        sock.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 12_000


@pytest.mark.parametrize("mode", ["600", "0660"])
def test_a_unix_socket_is_its_owners_unless_asked_otherwise(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "socket"
    with listening(ServerConfig(network=NetworkConfig(uds=str(path), uds_mode=mode))) as sock:
        assert stat.S_IMODE(path.stat().st_mode) == int(mode, 8)
        assert url_of(sock) == f"unix:{path}"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    assert not path.exists()


def test_the_socket_of_a_server_that_was_killed_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    assert path.exists()
    with listen_unix(path, 0o600), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_unix_socket_that_is_in_use_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with listen_unix(path, 0o600):
        with (
            pytest.raises(StartupError, match=rf"cannot listen on {path}: another program listens there; stop it"),
            listen_unix(path, 0o600),
        ):
            pass
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_no_socket_is_left_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "data"
    match kind:
        case "file":
            path.write_text("precious")
        case "folder":
            path.mkdir()
        case "link":
            (tmp_path / "precious").write_text("precious")
            path.symlink_to(tmp_path / "precious")
    with pytest.raises(StartupError, match="it exists and is not a socket"), listen_unix(path, 0o600):
        pass
    assert os.path.lexists(path)


def test_paths_that_will_not_do_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "no" / "such" / "folder", tmp_path / ("x" * 200)):
        with (
            pytest.raises(StartupError, match=r"cannot listen on .*(No such file|too long).*choose another --uds"),
            listen_unix(path, 0o600),
        ):
            pass


def test_a_socket_that_the_next_server_made_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with listen_unix(path, 0o600):
        path.unlink()
        path.write_text("the next one's")
    assert path.exists()
