"""A server under comparison: started by a command, frozen while another is measured, and stopped at the end."""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import httpx

_STOP_TIMEOUT_S = 60
_POLL_S = 0.1


class CompareError(Exception):
    """The comparison cannot continue; the text is for the user."""


class Server:
    """A running server and all processes that it started."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, start_s: float) -> None:
        self._process = process
        self.url = url
        self.start_s = start_s  # until it answered

    @property
    def pid(self) -> int:
        """The id of the process that the command started."""
        return self._process.pid

    def pids(self) -> set[int]:
        """Return the ids of the server's processes."""
        return _family(self._process.pid)

    def memory_mb(self) -> float:
        """Return the memory of the server's processes in MB; shared pages count once."""
        return sum(map(_proportional_kb, _family(self._process.pid))) * 1024 / 1e6

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop the server's processes within the context, so that another server has the machine for itself."""
        family = _family(self._process.pid)
        _signal_all(family, signal.SIGSTOP)
        try:
            yield
        finally:
            _signal_all(family, signal.SIGCONT)


def free_port() -> int:
    """Return a port on which no program of this machine listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def started(
    command: str,
    port: int,
    timeout_s: float,
    key: str | None = None,
    is_ready: Callable[[httpx.Client], bool] | None = None,
) -> Iterator[Server]:
    """Run a server within the context; leaving it waits until the server has ended.

    `{port}` in `command` becomes `port`. key: for the requests that test whether it is ready. is_ready: by default
    whether it answers a text. Raises CompareError, with the end of the server's output, if it does not in time.
    """
    arguments = shlex.split(command.replace("{port}", str(port)))
    # `headrace` of this environment is found by name, whether the environment is active or not.
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        began_s = time.monotonic()
        try:
            process = subprocess.Popen(arguments, stdout=log, stderr=log, env=environ)
        except OSError as error:
            raise CompareError(f"cannot start {arguments[0]}: {error.strerror}") from error
        try:
            try:
                _wait_until_ready(process, url, began_s + timeout_s, key, is_ready or _answers)
            except CompareError as error:
                raise CompareError(f"{command}\n{error}; the end of its output:\n{_tail(log)}") from error
            yield Server(process, url, time.monotonic() - began_s)
        finally:
            _stop(process)


def _tail(log: IO[bytes]) -> str:
    log.seek(0)
    return log.read().decode(errors="replace")[-2000:]


def _wait_until_ready(
    process: subprocess.Popen[bytes],
    url: str,
    deadline_s: float,
    key: str | None,
    is_ready: Callable[[httpx.Client], bool],
) -> None:
    """Return once /health is 200 (or unknown) and `is_ready`: some servers report health before they can answer."""
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as http:
        while True:
            if process.poll() is not None:
                raise CompareError(f"it exited with {process.returncode} before it was ready")
            if time.monotonic() > deadline_s:
                raise CompareError("it was not ready in time; raise --start-timeout")
            with contextlib.suppress(httpx.HTTPError):
                if http.get("/health").status_code in (200, 404) and is_ready(http):
                    return
            time.sleep(_POLL_S)


def _answers(http: httpx.Client) -> bool:
    """Return whether a completion or a text is answered."""
    models = http.get("/v1/models")
    if models.status_code != 200 or not models.json()["data"]:
        return False
    model = models.json()["data"][0]["id"]
    body = {"model": model, "prompt": "ready?", "max_tokens": 1}
    if http.post("/v1/completions", json=body).status_code == 200:
        return True
    return http.post("/v1/embeddings", json={"model": model, "input": "ready?"}).status_code == 200


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Interrupt the server, and return when it and all processes that it started have ended."""
    family = _family(process.pid)
    deadline_s = time.monotonic() + _STOP_TIMEOUT_S
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    while process.poll() is None or any(_status(pid) is not None for pid in family):
        if time.monotonic() > deadline_s:
            _signal_all(family, signal.SIGKILL)
        time.sleep(_POLL_S)


def _signal_all(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _status(pid: int) -> dict[str, str] | None:
    """Return the fields of /proc/PID/status; None if the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return None if fields["State"].startswith("Z") else fields


def _family(pid: int) -> set[int]:
    """Return the process and all its descendants."""
    pids = [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]
    parents = {each: int(status["PPid"]) for each in pids if (status := _status(each)) is not None}
    family = {pid}
    while children := {each for each, parent in parents.items() if parent in family} - family:
        family |= children
    return family


def _proportional_kb(pid: int) -> int:
    """Return the proportional set size; 0 for a process that has just ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1])
