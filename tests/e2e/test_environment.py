"""A server in an environment that was made for other programs, all of it at once, and `headrace doctor` in the same."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from models.system.cache_folder import cache_folder
from tests.helpers.deadline import wait_until
from tests.helpers.server_process import ServerProcess

# A read-only root, no shared memory, no home folder, and a user that /etc/passwd does not know.
_MOUNTS = "mount --make-rprivate / && mount -o remount,bind,ro / && mount -t tmpfs -o ro none /dev/shm"
_BARE = (
    *("unshare", "--user", "--map-root-user", "--mount", "sh", "-c"),
    f'{_MOUNTS} && exec unshare --user --map-user=12345 --map-group=12345 env -u HOME "$@"',
    "sh",
)
_VARIABLES = {
    "OMP_PROC_BIND": "true",
    "OMP_PLACES": "cores",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "LC_ALL": "C",
    "TMPDIR": "/no/such/folder",
}


@pytest.fixture
def prefix(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command to put before another one, which then runs in such an environment."""
    command = [*_BARE, "prlimit", "--nofile=128:128"]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("unshare does not work here")
    monkeypatch.setenv("HEADRACE_CACHE", str(cache_folder()))  # which is found by the home folder otherwise
    for name, value in _VARIABLES.items():
        monkeypatch.setenv(name, value)
    return command


def test_a_server_answers_in_a_bare_environment(prefix: list[str], tmp_path: Path) -> None:
    arguments = ("--kv-cache-memory-bytes", "64MiB", "--served-model-name", "demo")
    with ServerProcess(tmp_path / "log", *arguments, prefix=prefix) as server:
        server.wait_ready()
        body = {"model": "demo", "messages": [{"role": "user", "content": "Häuser? 你好"}], "max_tokens": 4}
        with server.client() as client:
            answer = client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        _stands_more_connections_than_files(server)
        allowed = _allowed_cpus(server.engine_pid())
        assert server.terminate() == 0
    assert allowed == _allowed_cpus(os.getpid())
    assert "since its threads would all share one core: OMP_PLACES, OMP_PROC_BIND;" in server.log
    assert "at most 128 files may be open, too few for 2048 connections" in server.log
    assert "Traceback" not in server.log


def _stands_more_connections_than_files(server: ServerProcess) -> None:
    """Those beyond the limit are dropped; with up to a quarter more than it, probes are answered."""
    address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
    with contextlib.ExitStack() as stack:
        for _ in range(70):
            stack.enter_context(socket.create_connection(address))
        with contextlib.ExitStack() as too_many:
            for _ in range(150):
                too_many.enter_context(socket.create_connection(address))
        wait_until(lambda: _is_live(server), "probes are answered")


def _is_live(server: ServerProcess) -> bool:
    with server.client() as client:
        try:
            return client.get("/live").status_code == 200
        except httpx.TransportError:  # the server has not noticed yet that others have left
            return False


def test_the_doctor_names_what_is_bare(prefix: list[str]) -> None:
    command = [*prefix, sys.executable, "-P", "-m", "server.cli", "doctor", "--json"]
    process = subprocess.run([*command, "--port", "0"], capture_output=True, check=False)
    found = {each["subject"]: each for each in json.loads(process.stdout)}
    assert process.returncode == 0, process.stdout
    assert {name for name, each in found.items() if each["severity"] == "warning"} >= {"open files", "cache folder"}
    assert "Read-only file system" in found["cache folder"]["message"]
    assert found["model"]["severity"] == "ok", "the demo model is read from the cache"


def _allowed_cpus(pid: int) -> set[str]:
    """Which processors the process's threads may use, as the system lists them."""
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            lines = (task / "status").read_text().splitlines()
            found |= {line.partition(":")[2].strip() for line in lines if line.startswith("Cpus_allowed_list:")}
    return found
