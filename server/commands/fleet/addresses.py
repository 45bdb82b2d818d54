"""Addresses of Ray's clusters, which are tried first: Ray itself waits for minutes for one that does not answer."""

import socket
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from engine.errors import OptionError, StartupError

_LISTENS_S = 5.0
_GCS = b"--gcs-address="


def check_listens(address: str) -> None:
    """Raise StartupError if nothing listens at the --address. Raises OptionError if it is not HOST:PORT."""
    parts = _host_port(address)
    if parts is None:
        raise OptionError(f"--address is {address}; it must be HOST:PORT of a cluster's head, such as 10.0.0.5:6379")
    if reason := _silent(*parts):
        raise StartupError(
            f"nothing answers at --address {address} ({reason}); start a cluster there with: "
            f"ray start --head --port {parts[1]}"
        )


def check_recorded(environ: Mapping[str, str]) -> None:
    """Raise StartupError if Ray would connect to a cluster that has ended: one that RAY_ADDRESS names, or the file that
    `ray start` writes, which a killed cluster leaves behind. Ray does not read the file if one cluster runs here."""
    if named := environ.get("RAY_ADDRESS"):
        parts = _host_port(named)
        if parts is not None and (reason := _silent(*parts)):
            raise StartupError(f"RAY_ADDRESS is {named}, and nothing answers there ({reason}); unset or correct it")
        return
    file = Path(environ.get("RAY_TMPDIR") or environ.get("TMPDIR") or "/tmp", "ray", "ray_current_cluster")
    try:
        recorded = file.read_text().strip()
    except (OSError, ValueError):
        return
    parts = _host_port(recorded)
    if parts is not None and len(_running_here()) != 1 and (reason := _silent(*parts)):
        raise StartupError(
            f"{file} names a cluster of Ray at {recorded}, and nothing answers there ({reason}); if it has ended, "
            "delete the file, or give the --address of another"
        )


def _host_port(address: str) -> tuple[str, int] | None:
    try:
        parts = urlsplit(f"//{address}")
        return (parts.hostname, parts.port) if parts.hostname and parts.port else None
    except ValueError:
        return None


def _silent(host: str, port: int) -> str:
    """Return why no connection is made; empty if one is."""
    try:
        socket.create_connection((host, port), _LISTENS_S).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _running_here() -> set[bytes]:
    """Return the addresses of the clusters that have a node on this machine."""
    found: set[bytes] = set()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if words[0].endswith(b"raylet"):
            found.update(word.removeprefix(_GCS) for word in words if word.startswith(_GCS))
    return found
