"""Time without a server after its engine is killed, from SIGKILL to the first answer, and the times of /live.

    .venv/bin/python -m benchmarks.reliability.restart_times MODEL [options of headrace serve]

The weights are in the cache, and are mapped. A server allows three restarts within ten minutes, so there are three.
/live is requested continuously; its longest time is reported.
"""

import argparse
import os
import shlex
import signal
import statistics
import sys
import time
from pathlib import Path

import httpx

from benchmarks.live_probe import LiveProbe
from benchmarks.servers import free_port, started

_KILLS = 3
_START_TIMEOUT_S = 300
_POLL_S = 0.005
_BODY = {"prompt": "a", "max_tokens": 1}


def engine_of(port: int) -> int:
    """Return the process id of the engine of the server that listens on `port`."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and b"engine.process" in _command_line(entry):
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            if str(port).encode() in _command_line(Path("/proc", parent)).split(b"\0"):
                return int(entry.name)
    raise ProcessLookupError(f"no engine of a server on port {port}")


def _command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def restart_s(client: httpx.Client, port: int) -> float:
    """Kill the engine; return the seconds until a request is answered with 200."""
    pid = engine_of(port)
    began_s = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    while True:
        answer = client.post("/v1/completions", json=_BODY)
        if answer.status_code == 200 and not _is_alive(pid):
            return time.monotonic() - began_s
        time.sleep(_POLL_S)


def _is_alive(pid: int) -> bool:
    return bool(_command_line(Path("/proc", str(pid))))


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="benchmarks.reliability.restart_times",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model")
    namespace, options = parser.parse_known_args()
    port = free_port()
    command = shlex.join(["headrace", "serve", namespace.model, "--port", str(port), *options])
    with (
        LiveProbe(f"http://127.0.0.1:{port}") as live,
        started(command, port, _START_TIMEOUT_S) as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        start_live_s = live.take_longest_s()
        times, live_s = [], []
        for _ in range(_KILLS):
            client.post("/v1/completions", json=_BODY).raise_for_status()
            times.append(restart_s(client, port))
            live_s.append(live.take_longest_s())
        live.stop()
    shown = ", ".join(f"{each:.2f}" for each in times)
    sys.stdout.write(
        f"start {server.start_s:.2f} s; after SIGKILL {shown}: median {statistics.median(times):.2f} s; /live at most "
        f"{start_live_s * 1000:.0f} ms during the start, {max(live_s) * 1000:.0f} ms during restarts\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
