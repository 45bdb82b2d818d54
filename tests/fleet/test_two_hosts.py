"""A fleet of two replicas, each on a host of its own: both answer, and a lost host costs no waiting request.

Run by `make test-fleet`, which installs Ray Serve; skipped where it is not installed or hosts cannot be made.
"""

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from server.commands.fleet.front import front_variables, haproxy_binary, wrapped_front_variables
from tests.fleet.conftest import (
    MODEL,
    OPTIONS,
    PORT,
    REPLICA_PORT,
    START_TIMEOUT_S,
    headrace,
    wait_logged,
)
from tests.fleet.hosts import Host, two_hosts

_HEAD_PORT = 6379
_LONG_PROMPT = [3 + number % 200 for number in range(10_000)]  # over 40 kB as JSON
_SETTLED_S = 5.0


@dataclass
class Cluster:
    first: Host
    second: Host
    env: dict[str, str]
    folder: Path

    @property
    def address(self) -> str:
        return f"{self.first.address}:{_HEAD_PORT}"

    @property
    def url(self) -> str:
        return f"http://{self.first.address}:{PORT}"

    def ray(self, host: Host, *arguments: str) -> None:
        """Run Ray on a host."""
        limits = ("--num-cpus", "1", "--object-store-memory", str(100 * 2**20))
        command = [str(Path(sys.executable).parent / "ray"), "start", "--block", *limits, *arguments]
        log = self.folder / f"ray-{time.monotonic_ns()}.log"
        wait_logged("Ray runtime started", log, host.run(command, self.env, log))

    def join(self) -> None:
        self.ray(self.second, "--address", self.address)

    def fleet(self, name: str, *options: str) -> "subprocess.Popen[bytes]":
        """Run `headrace fleet` on the first host until it is ready. Its log is in a file with the name."""
        log = self.folder / f"{name}.log"
        command = headrace("fleet", *options, *OPTIONS, "--host", "0.0.0.0", "--address", self.address)
        process = self.first.run(command, self.env, log)
        wait_logged("ready at", log, process)
        return process

    def wait_both_answer(self) -> None:
        for host in (self.first, self.second):
            end_s = time.monotonic() + START_TIMEOUT_S
            while not replica_ports(host):
                assert time.monotonic() < end_s, f"no replica answers at {host.address}"
                time.sleep(0.5)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs Ray Serve: make test-fleet")
    token = tmp_path / "token"
    token.write_text("a" * 64)
    env = {**os.environ, **front_variables(REPLICA_PORT), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    env |= {"RAY_raylet_start_wait_time_s": "120", "RAY_agent_register_timeout_ms": "120000"}  # for a busy machine
    env |= wrapped_front_variables(tmp_path / "front", haproxy_binary(), os.environ)
    with two_hosts() as (first, second):
        made = Cluster(first, second, env, tmp_path)
        made.ray(first, "--head", "--port", str(_HEAD_PORT), "--include-dashboard", "false")
        made.join()
        yield made
    for log in sorted(tmp_path.glob("*.log")):
        print(log.name, log.read_text(errors="replace"), sep="\n")  # noqa: T201 - shown where a test failed


def replica_ports(host: Host) -> list[int]:
    """Return the ports whose metrics can be read from another host."""
    found = []
    for port in range(REPLICA_PORT, REPLICA_PORT + 4):
        try:
            answer = httpx.get(f"http://{host.address}:{port}/metrics", timeout=10)
        except httpx.HTTPError:
            continue
        if "headrace_num_requests_running" in answer.text:
            found.append(port)
    return found


def num_answered(host: Host) -> float:
    (port,) = replica_ports(host)
    lines = httpx.get(f"http://{host.address}:{port}/metrics", timeout=10).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("headrace_requests_total"))


def ask(url: str, prompt: object) -> httpx.Response:
    body = {"model": MODEL, "prompt": prompt, "max_tokens": 2, "ignore_eos": True}
    return httpx.post(f"{url}/v1/completions", json=body, timeout=300)


def test_a_lost_host_costs_no_waiting_request(cluster: Cluster, model_folder: Path) -> None:
    process = cluster.fleet("fleet", str(model_folder), "--served-model-name", MODEL, "--replicas", "2")
    cluster.wait_both_answer()
    with ThreadPoolExecutor(12) as threads:
        assert {ask(cluster.url, "a").status_code for _ in range(20)} == {200}
        assert num_answered(cluster.first) > 0
        assert num_answered(cluster.second) > 0
        status = headrace("fleet", "status", "--address", cluster.address, "--replica-port", str(REPLICA_PORT))
        shown = subprocess.check_output(cluster.first.command(*status), text=True, env=cluster.env)
        for host in (cluster.first, cluster.second):
            assert f"replica at http://{host.address}:{REPLICA_PORT}" in shown
        pause = cluster.second.command("pkill", "-STOP", "-f", "engine.process")
        subprocess.run(pause, check=True)  # what this host has accepted waits
        answers = [threads.submit(ask, cluster.url, _LONG_PROMPT) for _ in range(12)]
        while not wait(answers, timeout=_SETTLED_S).not_done:  # the front has not sent it any yet
            answers = [threads.submit(ask, cluster.url, _LONG_PROMPT) for _ in range(12)]
        cluster.second.kill()
        assert [answer.result(300).status_code for answer in answers] == [200] * 12
    cluster.second.boot()
    cluster.join()
    cluster.wait_both_answer()
    stop = headrace("fleet", "stop", "--address", cluster.address)
    subprocess.run(cluster.first.command(*stop), check=True, timeout=180, env=cluster.env)
    assert process.wait(60) == 0
