"""headrace's HTTP server against others, with the same small application.

    python -m venv /tmp/others && /tmp/others/bin/pip install 'uvicorn[standard]' hypercorn granian
    .venv/bin/python -m benchmarks.http_server.servers --others /tmp/others/bin/python

For each server: complete answers per second over 64 connections, the time to the first byte of 1,000 streams that begin
together, and its reaction to broken, slow and vanished clients (faults.py). Rounds are interleaved; the figures are
medians. The client runs on the same machine, on one core.
"""

import argparse
import asyncio
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.http_server.faults import check_all
from benchmarks.http_server.load import requests_per_second, streams_at_once

_APP = "benchmarks.http_server.tiny_app:app"
_ROOT = Path(__file__).resolve().parents[2]
_OURS = "headrace"


@dataclass
class Figures:
    rates: list[float] = field(default_factory=list)
    median_s: list[float] = field(default_factory=list)
    slowest_s: list[float] = field(default_factory=list)  # the 99th of a hundred
    num_ended: list[int] = field(default_factory=list)
    handled: dict[str, bool] = field(default_factory=dict)


def commands(others: str) -> dict[str, list[str]]:
    """Return the command that starts each server, with `{port}` for the port."""
    ours = [sys.executable, "-m", "benchmarks.http_server.servers", "--serve", "{port}"]
    return {
        _OURS: ours,
        f"{_OURS}, uvloop": [*ours, "--loop", "uvloop"],
        "uvicorn": [others, "-m", "uvicorn", _APP, "--port", "{port}", "--log-level", "error", "--lifespan", "off"],
        "hypercorn": [others, "-m", "hypercorn", _APP, "--bind", "127.0.0.1:{port}", "--log-level", "CRITICAL"],
        "granian": [
            *(others, "-m", "granian", "--interface", "asginl", "--port", "{port}", "--no-log", _APP),
        ],
    }


def serve(port: int, loop: str) -> None:
    """Serve the application by headrace's protocol, like server/commands/serve/http_server.py."""
    from functools import partial

    import uvicorn
    from starlette.types import Receive, Scope, Send

    from benchmarks.http_server.tiny_app import app
    from engine.errors import HeadraceError
    from server.errors import describe
    from server.http.connections.connection import Connection
    from server.http.connections.connection_limits import ConnectionLimits
    from server.http.connections.open_connections import OpenConnections
    from server.http.connections.proxies import TrustedProxies
    from server.http.middleware.requests import check_head

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            check_head(scope)
        except HeadraceError as error:
            await describe(error, "").response()(scope, receive, send)
        else:
            await app(scope, receive, send)

    protocol = partial(
        Connection,
        limits=ConnectionLimits(head_s=10, write_s=10),
        connections=OpenConnections(2048, None),
        trusted=TrustedProxies(()),
        on_closed=lambda _: None,
    )
    config = uvicorn.Config(
        checked, port=port, http=protocol, ws="none", lifespan="off", log_config=None, access_log=False, loop=loop
    )
    uvicorn.Server(config).run()


@contextlib.contextmanager
def _started(command: list[str]) -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    filled = [part.format(port=port) for part in command]
    environ = {**os.environ, "PYTHONPATH": str(_ROOT)}
    with subprocess.Popen(filled, cwd=_ROOT, env=environ, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(port, process)
            yield port
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    end_s = time.monotonic() + 20
    while time.monotonic() < end_s and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise SystemExit(f"this server does not start: {' '.join(map(str, process.args))}")  # type: ignore[arg-type]


def _measure(port: int, figures: Figures, given: argparse.Namespace) -> None:
    asyncio.run(requests_per_second(port, 64, 0.5))  # warm-up
    figures.rates.append(asyncio.run(requests_per_second(port, 64, given.seconds)))
    first, _ = asyncio.run(streams_at_once(port, given.streams))
    figures.num_ended.append(len(first))
    figures.median_s.append(statistics.median(first))
    figures.slowest_s.append(first[int(len(first) * 0.99) - 1])


def _table(all_figures: dict[str, Figures]) -> str:
    names = list(all_figures)
    ours = statistics.median(all_figures[_OURS].rates)
    lines = [
        "| | " + " | ".join(names) + " |",
        "| --- " * (len(names) + 1) + "|",
        _row(
            "whole answers a second",
            [f"{statistics.median(f.rates) / ours:.2f}" for f in all_figures.values()],
        ),
        _row("first byte of a stream, median", [f"{_ms(f.median_s)} ms" for f in all_figures.values()]),
        _row("99th of a hundred", [f"{_ms(f.slowest_s)} ms" for f in all_figures.values()]),
        _row("streams that came to their end", [str(min(f.num_ended)) for f in all_figures.values()]),
    ]
    faults = next(iter(all_figures.values())).handled
    lines += [_row(fault, ["yes" if f.handled[fault] else "no" for f in all_figures.values()]) for fault in faults]
    return "\n".join([*lines, f"\n1.00 is {ours:,.0f} whole answers a second"])


def _ms(seconds: list[float]) -> str:
    return f"{statistics.median(seconds) * 1000:.0f}"


def _row(what: str, cells: list[str]) -> str:
    return f"| {what} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--others", help="a Python with uvicorn, hypercorn and granian")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of the load of whole answers")
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("--loop", default="asyncio", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve is not None:
        serve(given.serve, given.loop)
        return
    servers = commands(given.others or sys.executable)
    if given.others is None:
        servers = {name: command for name, command in servers.items() if name not in ("hypercorn", "granian")}
    all_figures = {name: Figures() for name in servers}
    for _ in range(given.rounds):
        for name, command in servers.items():
            with _started(command) as port:
                _measure(port, all_figures[name], given)
    for name, command in servers.items():
        with _started(command) as port:
            all_figures[name].handled = asyncio.run(check_all(port))
    sys.stdout.write(_table(all_figures) + "\n")


if __name__ == "__main__":
    main()
