"""A fleet in a running cluster: it starts there, takes other options without a lost request, and stops.

Run by `make test-fleet`, which installs Ray Serve; skipped where it is not installed.
"""

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from server.commands.fleet.front import free_ports, front_variables, haproxy_binary, own_front_variables
from tests.fleet.conftest import MODEL, headrace, stream_until, wait_logged

_PORT = 8191
_REPLICA_PORT = 31000
_URL = f"http://127.0.0.1:{_PORT}"


@dataclass
class Cluster:
    address: str
    env: dict[str, str]
    folder: Path

    def start(self, name: str, *options: str) -> "subprocess.Popen[bytes]":
        """Run `headrace fleet` in this cluster. Its log is in a file with the name."""
        sizes = ("--kv-cache-memory-bytes", "64MiB", "--threads", "1", "--shutdown-timeout", "20")
        ports = ("--port", str(_PORT), "--replica-port", str(_REPLICA_PORT), "--address", self.address)
        with self.log(name).open("wb") as file:
            return subprocess.Popen(headrace("fleet", *sizes, *ports, *options), stderr=file, env=self.env)

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def wait_ready(self, name: str, process: "subprocess.Popen[bytes]") -> None:
        wait_logged("ready at", self.log(name), process)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs Ray Serve: make test-fleet")
    token = tmp_path / "token"
    token.write_text("a" * 64)
    env = {**os.environ, **front_variables(_REPLICA_PORT), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    front = tempfile.TemporaryDirectory(prefix="hr-", dir="/tmp", ignore_cleanup_errors=True)  # short: it has sockets
    # Files and ports of its own, so that it meets no other front of this machine.
    env |= own_front_variables(Path(front.name), haproxy_binary(), os.environ)
    (port,) = free_ports(1)
    ray = Path(sys.executable).parent / "ray"
    limits = ("--num-cpus", "2", "--object-store-memory", str(100 * 2**20), "--include-dashboard", "false")
    command = [str(ray), "start", "--head", "--block", "--port", str(port), *limits]
    with (tmp_path / "ray.log").open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=env)
    try:
        wait_logged("Ray runtime started", tmp_path / "ray.log", process)
        yield Cluster(f"127.0.0.1:{port}", env, tmp_path)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        front.cleanup()
        for log in sorted(tmp_path.glob("*.log")):
            print(log.name, log.read_text(errors="replace"), sep="\n")  # noqa: T201 - shown where a test failed


@pytest.mark.parametrize("replicas", ["1", "2"])
def test_an_update_loses_no_request(cluster: Cluster, model_folder: Path, replicas: str) -> None:
    model = str(model_folder)
    first = cluster.start("first", model, "--served-model-name", MODEL, "--replicas", replicas)
    cluster.wait_ready("first", first)
    ended = threading.Event()
    with ThreadPoolExecutor(2) as threads:
        asking = [threads.submit(stream_until, ended, _URL) for _ in range(2)]
        try:
            names = ("--served-model-name", MODEL, "--served-model-name", "renewed")
            second = cluster.start("second", model, *names, "--replicas", replicas)
            cluster.wait_ready("second", second)
        finally:
            ended.set()
        failures = [each for asked in asking for each in asked.result(180)]
    assert failures == []
    for _ in range(4):  # all replicas know the new name
        body = {"model": "renewed", "prompt": "a", "max_tokens": 2}
        assert httpx.post(f"{_URL}/v1/completions", json=body, timeout=60).status_code == 200
    assert first.wait(60) == 0
    assert "another command has updated the fleet" in cluster.log("first").read_text()
    if replicas == "1":
        other = cluster.start("other", model, "--port", str(_PORT + 1))
        assert other.wait(120) == 2
        assert f"--port is {_PORT + 1}, and the fleet that runs in this cluster has --port {_PORT}" in (
            cluster.log("other").read_text()
        )
        second.send_signal(signal.SIGTERM)
    else:
        stop = headrace("fleet", "stop", "--address", cluster.address)
        subprocess.run(stop, check=True, timeout=180, env=cluster.env)
    assert second.wait(60) == 0
    with pytest.raises(httpx.ConnectError):  # the front has ended, too
        httpx.get(_URL)
