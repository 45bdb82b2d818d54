"""Hosts on this machine: each has its own network namespace and address, processes, name, and folders of Ray."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

_BRIDGE = "hr-bridge"
_NETWORK = "10.77.0"
_START_S = 20.0
# The first process of a host: its end ends all others. Ray's files and shared memory are the host's own; models and
# Python are those of this machine. Bash stays, since it waits for processes whose parents have ended.
_FIRST = """
set -e
hostname "$1"
mkdir -p /tmp/ray
mount -t tmpfs ray /tmp/ray
mount -t tmpfs shm /dev/shm
sleep inf
true
"""


@dataclass
class Host:
    """A host that `hosts` made. address: as other hosts, and this machine, reach it."""

    name: str
    address: str
    _outer: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    def boot(self) -> None:
        """Start its first process, which `kill` ends."""
        namespaces = ("--pid", "--mount", "--uts", "--fork", "--mount-proc", "--kill-child")
        command = ["ip", "netns", "exec", self.name, "unshare", *namespaces, "bash", "-c", _FIRST, "host", self.name]
        self._outer = subprocess.Popen(command)
        end_s = time.monotonic() + _START_S
        while subprocess.run(self.command("pgrep", "sleep"), capture_output=True).returncode != 0:
            assert time.monotonic() < end_s, f"{self.name} did not start"
            time.sleep(0.1)

    def command(self, *command: str) -> list[str]:
        """Return a command that runs `command` in this host."""
        return ["nsenter", "--target", str(self._first()), "--net", "--mount", "--pid", "--uts", "--", *command]

    def run(self, command: Sequence[str], env: Mapping[str, str], log: Path) -> "subprocess.Popen[bytes]":
        with log.open("ab") as file:
            return subprocess.Popen(self.command(*command), stdout=file, stderr=subprocess.STDOUT, env=env)

    def kill(self) -> None:
        """End all its processes by SIGKILL."""
        assert self._outer is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._first(), signal.SIGKILL)
        self._outer.wait()
        self._outer = None

    @property
    def is_running(self) -> bool:
        return self._outer is not None

    def _first(self) -> int:
        assert self._outer is not None
        for _ in range(100):
            children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children").read_text().split()
            if children:
                return int(children[0])
            assert self._outer.poll() is None
            time.sleep(0.05)
        raise AssertionError(f"{self.name} has no first process")


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Make two hosts, and end them and their processes with the context. Skips the test where they cannot be made."""
    missing = [program for program in ("ip", "unshare", "nsenter") if shutil.which(program) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"hosts need root, iproute2 and util-linux; not there: {', '.join(missing) or 'root'}")
    made = tuple(Host(f"hr-host-{number}", f"{_NETWORK}.{number}") for number in (1, 2))
    with contextlib.ExitStack() as stack:
        try:
            _ip(f"link add {_BRIDGE} type bridge")
            stack.callback(_ip, f"link delete {_BRIDGE}")
            _ip(f"address add {_NETWORK}.254/24 dev {_BRIDGE}")
            _ip(f"link set {_BRIDGE} up")
            for host in made:
                _ip(f"netns add {host.name}")
                stack.callback(_ip, f"netns delete {host.name}")
                _ip(f"link add {host.name} type veth peer name eth0 netns {host.name}")
                _ip(f"link set {host.name} master {_BRIDGE} up")
                for inside in (f"address add {host.address}/24 dev eth0", "link set lo up", "link set eth0 up"):
                    _ip(f"-netns {host.name} {inside}")
                _ip(f"-netns {host.name} route add default via {_NETWORK}.254")
        except subprocess.CalledProcessError as error:
            if "File exists" in error.stderr:  # hosts of another run are left, or used
                raise
            pytest.skip(f"network namespaces cannot be made: {error.cmd}: {error.stderr.strip()}")
        for host in made:
            stack.callback(lambda host=host: host.kill() if host.is_running else None)
            host.boot()
        yield made


def _ip(arguments: str) -> None:
    subprocess.run(["ip", *arguments.split()], check=True, capture_output=True, text=True)
