"""A real `headrace serve` on a free port, for end-to-end tests."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.helpers.deadline import wait_until

COMMAND = str(Path(sys.executable).with_name("headrace"))
API_KEY = "test-key"
START_TIMEOUT_S = 300.0  # most of it is for the first download of the demo model


class ServerProcess:
    """`headrace serve` with its log in a file. Leaving the context kills whatever still runs."""

    def __init__(self, log: Path, *arguments: str, prefix: Sequence[str] = (), faults: str | None = None) -> None:
        """prefix: a command that runs the server, in an environment that it makes. faults: to inject, as
        HEADRACE_FAULTS has them."""
        self._log = log
        ours = ("HEADRACE_", "OMP_NUM_THREADS")  # the latter is for torch in the tests' own process
        environ = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        if cache := os.environ.get("HEADRACE_CACHE"):
            environ["HEADRACE_CACHE"] = cache
        if faults is not None:
            environ["HEADRACE_FAULTS"] = faults
            arguments = (*arguments, "--enable-fault-injection")
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [*prefix, COMMAND, "serve", "--port", "0", "--api-key", API_KEY, *arguments],
                env=environ,
                stdin=subprocess.DEVNULL,
                stderr=file,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()  # the engine process ends with the socket pair
        self.process.wait()

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def url(self) -> str:
        """The base URL, from the log; available before the model is loaded."""
        wait_until(lambda: "listening on " in self.log or self._has_exited(), "the server listens", START_TIMEOUT_S)
        match = re.search(r"listening on (http://\S+),", self.log)
        assert match is not None, f"the server ended: {self.log}"
        return match[1]

    def _has_exited(self) -> bool:
        return self.process.poll() is not None

    def wait_ready(self) -> None:
        with self.client() as client:
            ready = lambda: self._has_exited() or client.get("/ready").status_code == 200  # noqa: E731
            wait_until(ready, f"the server is ready; its log: {self.log}", START_TIMEOUT_S)
        assert not self._has_exited(), self.log

    def client(self) -> httpx.Client:
        return httpx.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {API_KEY}"},
            timeout=180,
            trust_env=False,
            verify=False,  # there is no TLS, and a context for it takes longer than a request
        )

    def engine_pid(self) -> int:
        """The process id of the engine that runs now, or is about to."""
        engines: list[int] = []

        def is_there() -> bool:
            engines[:] = [pid for pid in children(self.process.pid) if b"engine.process" in _command(pid)]
            return len(engines) == 1

        wait_until(is_there, "there is one engine process")
        return engines[0]

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        with self.client() as client:
            text = client.get("/metrics").text
        samples = [
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert samples, f"no metric {name} with {labels} in:\n{text}"
        return sum(samples)

    def terminate(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(START_TIMEOUT_S)


def children(pid: int) -> list[int]:
    """The processes that its threads have started."""
    found: list[int] = []
    for each in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended meanwhile
            found += map(int, each.read_text().split())
    return found


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def state(pid: int) -> str | None:
    """The letter that the system gives for what the process does, such as R, S, T or Z; None if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that is only waiting to be reaped does not."""
    return state(pid) not in (None, "Z")
