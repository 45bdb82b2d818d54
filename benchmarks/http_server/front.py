"""What a fleet's front costs in time: streams through it against the same server directly.

    .venv-fleet/bin/python -m benchmarks.http_server.front --rounds 7
    .venv-fleet/bin/python -m benchmarks.http_server.front --rounds 7 --model smollm2.gguf --pace 0

Three addresses are measured in turn: a `headrace serve`, the front of a fleet of one replica, and that replica's own
address, which Ray's HTTP server answers. The engine only sends tokens at a steady pace, unless there is a --model. The
clients are in this process: each opens a stream up to 0.1 s after its last one ended, and they begin spread over the
time of one. Printed are the median time to the first token and the 95th of a hundred gaps between events, and the
median over rounds of how much more each is than directly.
"""

import argparse
import asyncio
import contextlib
import os
import random
import statistics
import sys
import time
from dataclasses import dataclass, field

import msgspec

from benchmarks.http_server.load import post
from benchmarks.http_server.paced_engine import PACE_VARIABLE, use_paced_engine
from benchmarks.servers import free_port, started
from server.commands.fleet.replica import ReplicaServer

_DIRECT, _FRONT, _REPLICA = "headrace serve", "front of a fleet", "replica, without its front"
_PAUSE_S = 0.1  # at most, of a client between two streams
_EVENT, _END = b"data: {", b"data: [DONE]"


class PacedReplica(ReplicaServer):
    """A replica with the paced engine in place of a real one."""

    def __init__(self, *args: object) -> None:
        use_paced_engine()
        super().__init__(*args)  # type: ignore[arg-type]


def serve(command: list[str]) -> None:
    """Run a command of headrace with the paced engine."""
    from benchmarks.http_server import front  # by its name, under which a replica finds its class
    from server.cli import main as headrace
    from server.commands.fleet import cluster

    use_paced_engine()
    cluster.ReplicaServer = front.PacedReplica  # type: ignore[misc]
    sys.argv = ["headrace", *command]
    sys.exit(headrace())


@dataclass
class Times:
    first_ms: list[float] = field(default_factory=list)
    gap_ms: list[float] = field(default_factory=list)

    def figures(self) -> tuple[float, float]:
        """Return the median time to the first token, and the 95th of a hundred gaps, in ms."""
        return statistics.median(self.first_ms), statistics.quantiles(self.gap_ms, n=100)[94]


class _Stream(asyncio.Protocol):
    """A client that sends one request and notes when events of its answer come."""

    def __init__(self, request: bytes, times: Times) -> None:
        self.ended = asyncio.get_running_loop().create_future()
        self._request, self._times = request, times
        self._last, self._last_s = b"", 0.0
        self._has_first = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._last_s = time.perf_counter()
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now_s = time.perf_counter()
        if _EVENT in data:
            times = self._times.gap_ms if self._has_first else self._times.first_ms
            times.append((now_s - self._last_s) * 1000)
            self._has_first, self._last_s = True, now_s
        self._last = self._last[-len(_END) :] + data
        if _END in self._last and not self.ended.done():
            self._transport.close()
            self.ended.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(exc or ConnectionError(f"a stream broke off: {self._last[-300:]!r}"))


async def measure(port: int, body: dict[str, object], num_clients: int, num_streams: int, spread_s: float) -> Times:
    """Measure `num_streams` streams of each client. spread_s: within which they begin."""
    loop, times, pauses = asyncio.get_running_loop(), Times(), random.Random(1)
    request = post("/v1/completions", msgspec.json.encode(body))

    async def ask(number: int) -> None:
        await asyncio.sleep(spread_s * number / num_clients)
        for _ in range(num_streams):
            await asyncio.sleep(pauses.uniform(0, _PAUSE_S))  # else each would begin just after a step, and have time
            _, stream = await loop.create_connection(lambda: _Stream(request, times), "127.0.0.1", port)
            await stream.ended

    await asyncio.gather(*map(ask, range(num_clients)))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=40, help="of each stream")
    parser.add_argument("--each", type=int, default=3, help="streams of a client in a round")
    parser.add_argument("--pace", type=float, default=0.05, help="seconds between two tokens of the paced engine")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--model", help="a real engine with this model, on one thread")
    parser.add_argument("--serve", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve is not None:
        serve(given.serve)
        return
    os.environ[PACE_VARIABLE] = str(given.pace)
    headrace = "server.cli" if given.model else "benchmarks.http_server.front --serve"
    options = f"{given.model or 'paced/engine'} --served-model-name m --threads 1 --kv-cache-memory-bytes 512MiB"
    replica_port = 34000
    body = {
        "model": "m",
        "prompt": "Why is the sky blue?",
        "max_tokens": given.tokens,
        "stream": True,
        "ignore_eos": True,
    }
    with contextlib.ExitStack() as stack:
        ports = {_DIRECT: free_port()}
        command = f"{sys.executable} -m {headrace} serve {options} --port {{port}}"
        stack.enter_context(started(command, ports[_DIRECT], timeout_s=120))
        ports[_FRONT], ports[_REPLICA] = free_port(), replica_port
        command = f"{sys.executable} -m {headrace} fleet {options} --port {{port}} --replica-port {replica_port}"
        stack.enter_context(started(command, ports[_FRONT], timeout_s=240))
        figures: dict[str, list[tuple[float, float]]] = {name: [] for name in ports}
        for number in range(-1, given.rounds):  # the first one warms up
            for name, port in ports.items():
                times = asyncio.run(measure(port, body, given.streams, given.each, given.tokens * given.pace or 1.0))
                if number >= 0:
                    figures[name].append(times.figures())
    for name, rounds in figures.items():
        columns = zip(zip(*rounds, strict=True), zip(*figures[_DIRECT], strict=True), strict=True)
        (first, more_first), (gap, more_gap) = (
            (statistics.median(mine), statistics.median(a - b for a, b in zip(mine, direct, strict=True)))
            for mine, direct in columns
        )
        text = f"{name}: first token {first:.1f} ms ({more_first:+.1f}), p95 gap {gap:.1f} ms ({more_gap:+.1f})\n"
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
