"""Cost of metrics and traces: microseconds per step, and requests per second with and without traces.

    .venv/bin/python -m benchmarks.reliability.observability

The requests are chats of 16 tokens whose engine is a script, called in this process without a socket, so that tracing
is a larger part of them than of any real request. The modes take turns; the figures are medians of the rounds. The
collector is another process that reads and answers; the missing collector is a port without a listener.
"""

import argparse
import asyncio
import contextlib
import multiprocessing
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection

import httpx

from engine.protocol import StepStats
from server.metrics.values import Metrics
from server.tracing.start import start_tracing
from tests.helpers.fake_client import MODEL, FakeClient, http, make_app, says

_CHAT = {"messages": [{"role": "user", "content": "Why is the sky blue?"}], "max_tokens": 16}
_AT_ONCE = 16
_STEP = StepStats(
    running=8,
    waiting=2,
    blocks_total=4096,
    blocks_used=300,
    blocks_shared=20,
    blocks_cached=900,
    decode_tokens=8,
    step_s=0.02,
    schedule_s=1e-4,
    forward_s=0.018,
    sample_s=1e-3,
    update_s=1e-4,
    send_s=1e-4,
    read_bytes=10**9,
    write_bytes=10**5,
    flops=10**10,
    grammar_cache_bytes=0,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=400, help="in each round, of each mode")
    args = parser.parse_args()
    metrics = Metrics(MODEL)
    sys.stdout.write(f"a step's metrics: {_microseconds(lambda: metrics.on_step(_STEP)):.0f} us\n")
    sys.stdout.write(f"a scrape: {_microseconds(metrics.render, 20) / 1000:.1f} ms\n")
    with _collector() as url, _no_collector() as gone:
        modes = {"without traces": None, "with traces": url, "collector gone": gone}
        rates: dict[str, list[float]] = {mode: [] for mode in modes}
        for _ in range(args.rounds + 1):
            for mode, endpoint in modes.items():
                rates[mode].append(asyncio.run(_requests_per_s(endpoint, args.requests)))
    medians = {mode: statistics.median(values[1:]) for mode, values in rates.items()}  # the first round warms up
    for mode, rate in medians.items():
        sys.stdout.write(f"{mode}: {rate:.0f} requests/s, {rate / medians['without traces']:.3f} of those without\n")


def _microseconds(call: Callable[[], object], num: int = 5000) -> float:
    """Return the median of ten means."""
    means = []
    for _ in range(10):
        began_s = time.perf_counter()
        for _ in range(num // 10 + 1):
            call()
        means.append((time.perf_counter() - began_s) / (num // 10 + 1))
    return statistics.median(means) * 1e6


async def _requests_per_s(endpoint: str | None, num_requests: int) -> float:
    app = make_app(FakeClient(says("sixteen letters!")), log_requests=False)
    tracing = start_tracing(endpoint, MODEL, app.state.context.metrics.count_spans)
    app.state.context.tracing = tracing
    async with http(app) as api:
        began_s = time.perf_counter()
        await asyncio.gather(*(_send(api, num_requests // _AT_ONCE) for _ in range(_AT_ONCE)))
        taken_s = time.perf_counter() - began_s
    if tracing is not None:
        tracing.close(1.0)
    return num_requests // _AT_ONCE * _AT_ONCE / taken_s


async def _send(api: httpx.AsyncClient, num_requests: int) -> None:
    for _ in range(num_requests):
        assert (await api.post("/v1/chat/completions", json=_CHAT)).status_code == 200


@contextlib.contextmanager
def _collector() -> Iterator[str]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=_collect, args=(theirs,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()


def _collect(pipe: Connection) -> None:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    pipe.send(server.server_address[1])
    server.serve_forever()


@contextlib.contextmanager
def _no_collector() -> Iterator[str]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # without listening
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"


if __name__ == "__main__":
    main()
