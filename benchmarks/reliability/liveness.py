"""Times of /live while the server loads, computes, is flooded, and loses its engine.

    .venv/bin/python -m benchmarks.reliability.liveness MODEL [options of headrace serve]

The server, the load and the probe share the machine. A row has the probe's times during one kind of trouble. Linux
only.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import resource
import shlex
import signal
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import httpx

from benchmarks.live_probe import LiveProbe
from benchmarks.reliability.large_requests import CHAT, PROSE, chat, post
from benchmarks.reliability.restart_times import engine_of, restart_s
from benchmarks.servers import free_port, started

_PROCESSES = multiprocessing.get_context("spawn")  # for the load, which would hold the GIL in the probe's process
_START_TIMEOUT_S = 300
_PHASE_S = 5.0
_NUM_STREAMS, _NUM_IDLE, _NUM_LEAVING = 8, 1000, 1000
_STREAM = {"prompt": "Once", "max_tokens": 4000, "ignore_eos": True, "stream": True}


def _read_streams(url: str) -> None:
    """Run clients that read streams, until the process is ended."""

    def read() -> None:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            while True:
                with client.stream("POST", "/v1/completions", json=_STREAM) as answer:
                    for _ in answer.iter_lines():
                        pass

    with ThreadPoolExecutor(_NUM_STREAMS) as pool:
        for _ in range(_NUM_STREAMS):
            pool.submit(read)


@contextlib.contextmanager
def _streams(url: str) -> Iterator[None]:
    process = _PROCESSES.Process(target=_read_streams, args=(url,))
    process.start()
    time.sleep(_PHASE_S)  # until they run
    try:
        yield
    finally:
        process.terminate()
        process.join()


def _allow_connections() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _hold_connections(port: int) -> None:
    """Hold connections; half of them say nothing, half send their head byte by byte."""
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(_NUM_IDLE)]
        end_s = time.monotonic() + _PHASE_S
        for number in range(1000):
            if time.monotonic() >= end_s:
                return
            for peer in peers[::2]:
                peer.sendall(b"GET /v1/models HTTP/1.1\r\nx: "[number : number + 1] or b"y")
            time.sleep(0.1)


def _leave(port: int) -> None:
    """Run clients that send a request and leave, as fast as they can, and give the server a moment to notice."""
    body = json.dumps(_STREAM)
    head = f"host: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    for _ in range(_NUM_LEAVING):
        with socket.create_connection(("127.0.0.1", port)) as peer:
            peer.sendall(f"POST /v1/completions HTTP/1.1\r\n{head}{body}".encode())
    time.sleep(_PHASE_S / 2)


def _send_large(url: str) -> None:
    body = chat(PROSE)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: post(url, CHAT, body), range(4)))
    time.sleep(_PHASE_S / 2)


def _stop_engine(port: int) -> None:
    pid = engine_of(port)
    os.kill(pid, signal.SIGSTOP)
    time.sleep(_PHASE_S)
    os.kill(pid, signal.SIGCONT)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.reliability.liveness",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model")
    namespace, options = parser.parse_known_args()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = shlex.join(["headrace", "serve", namespace.model, "--port", str(port), *options])
    with (
        LiveProbe(url) as live,
        started(command, port, _START_TIMEOUT_S),
        httpx.Client(base_url=url, timeout=60, trust_env=False) as client,
        ProcessPoolExecutor(1, _PROCESSES, initializer=_allow_connections) as pool,
    ):
        pool.submit(_allow_connections).result()  # the process has started before anything is measured
        sys.stdout.write("| while | answers | p50 | p99 | longest |\n| --- | --- | --- | --- | --- |\n")
        all_s = live.take_times_s()
        _print("the model loads", all_s)

        def measure(name: str, work: Callable[[], object]) -> None:
            live.take_times_s()
            work()
            times_s = live.take_times_s()
            all_s.extend(times_s)
            _print(name, times_s)

        measure("nothing runs", lambda: time.sleep(_PHASE_S))
        with _streams(url):
            measure(f"{_NUM_STREAMS} streams run", lambda: time.sleep(_PHASE_S))
            measure(
                f"and {_NUM_IDLE:,} connections are silent or slow",
                lambda: pool.submit(_hold_connections, port).result(),
            )
            measure(
                f"and {_NUM_LEAVING:,} clients leave after their request", lambda: pool.submit(_leave, port).result()
            )
            measure("and four bodies of 7.9 MB arrive", lambda: pool.submit(_send_large, url).result())
            measure("and the engine is stopped and continues", lambda: _stop_engine(port))
            measure("and the engine is killed and starts again", lambda: restart_s(client, port))
        live.stop()
    _print("all of it", sorted(all_s))
    return 0


def _print(name: str, times_s: list[float]) -> None:
    percentiles = statistics.quantiles(times_s, n=100, method="inclusive")
    shown = " | ".join(f"{each * 1000:.0f} ms" for each in (percentiles[49], percentiles[98], times_s[-1]))
    sys.stdout.write(f"| {name} | {len(times_s):,} | {shown} |\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
