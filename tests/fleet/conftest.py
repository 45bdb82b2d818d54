"""Fleets on a tiny random model, in processes of their own."""

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

START_TIMEOUT_S = 300.0
PORT = 8190
REPLICA_PORT = 31000  # first of 1,000; not those of a fleet that may run here
MODEL = "tiny"
OPTIONS = (
    *("--kv-cache-memory-bytes", "256MiB", "--threads", "1", "--shutdown-timeout", "20"),
    *("--port", str(PORT), "--replica-port", str(REPLICA_PORT)),
)
_REPLICA = re.compile("ray::(ServeReplica:headrace:|SERVE_REPLICA::headrace#)")


@dataclass
class RunningFleet:
    process: "subprocess.Popen[bytes]"
    log: Path
    url: str = f"http://127.0.0.1:{PORT}"

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=120)

    def cluster(self) -> list[str]:
        """Return the option with the address of its cluster, as its log says it."""
        found = re.search(r"headrace fleet status --address (\S+)", self.log.read_text(errors="replace"))
        assert found is not None
        return ["--address", found[1]]

    def replicas(self) -> list[int]:
        """Return the process ids of replicas, without another fleet's on this machine."""
        return [pid for pid, command in _processes() if _REPLICA.match(command) and self.process.pid in _ancestors(pid)]

    def engines(self) -> dict[int, int]:
        """Return the process id of each replica's engine."""
        found = {}
        for pid, command in _processes():
            if "engine.process" in command and (parent := _parent(pid)) in self.replicas():
                found[parent] = pid
        return found

    def wait_for_replicas(self, count: int, other_than: int | None = None) -> None:
        """Wait until `count` replicas have an engine. The front may not send requests to all of them yet."""
        end_s = time.monotonic() + START_TIMEOUT_S
        while len(found := self.engines()) != count or other_than in found:
            assert time.monotonic() < end_s, f"{found}: not {count} replicas with an engine"
            time.sleep(0.2)


def _processes() -> Iterator[tuple[int, str]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:  # it has ended
                continue
            yield int(folder.name), command


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def _ancestors(pid: int) -> Iterator[int]:
    while (parent := _parent(pid)) is not None and parent > 1:
        yield parent
        pid = parent


def headrace(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "server.cli", *arguments]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.helpers.checkpoints import llama_config
    from tests.helpers.model_folders import VOCAB_SIZE, write_model_folder

    config = llama_config(vocab_size=VOCAB_SIZE, max_position_embeddings=16384)
    return write_model_folder(tmp_path_factory.mktemp("model"), config)


def wait_logged(text: str, log: Path, process: "subprocess.Popen[bytes]") -> None:
    """Wait until `process`, which must not end, has written `text` to its log."""
    end_s = time.monotonic() + START_TIMEOUT_S
    while text not in (found := log.read_text(errors="replace")):
        assert process.poll() is None, found
        assert time.monotonic() < end_s, found
        time.sleep(0.2)


@contextlib.contextmanager
def started_fleet(folder: Path, *options: str, **env: str) -> Iterator[RunningFleet]:
    """Run a fleet on this machine within the context. folder: for its log. env: more variables."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs Ray Serve: make test-fleet")
    log = folder / "log"
    command = headrace("fleet", *options, "--served-model-name", MODEL, *OPTIONS)
    with log.open("wb") as file:
        process = subprocess.Popen(command, stderr=file, env={**os.environ, **env})
    running = RunningFleet(process, log)
    try:
        wait_logged("ready at", log, process)
        yield running
    finally:
        engines = running.engines().values()  # while it runs: afterwards it is nobody's parent
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(120)
        print(log.read_text(errors="replace"))  # noqa: T201 - shown by pytest where a test failed
        assert not [pid for pid in engines if os.path.exists(f"/proc/{pid}")]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Iterator[RunningFleet]:
    with started_fleet(tmp_path_factory.mktemp("fleet"), str(model_folder), "--replicas", "2") as running:
        yield running


def stream_until(ended: threading.Event, url: str) -> list[str]:
    """Stream until `ended` is set, one request after another; return what was not answered whole."""
    body = {"model": MODEL, "prompt": "a", "max_tokens": 30, "ignore_eos": True, "stream": True}
    failures = []
    while not ended.is_set():
        try:
            response = httpx.post(f"{url}/v1/completions", json=body, timeout=120)
        except httpx.HTTPError as error:
            failures.append(repr(error))
            continue
        if response.status_code != 200 or not response.text.rstrip().endswith("data: [DONE]"):
            failures.append(f"{response.status_code} {response.text[-300:]}")
    return failures
