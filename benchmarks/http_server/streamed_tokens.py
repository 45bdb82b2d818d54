"""CPU time of the API process for each streamed token, with an engine that only sends tokens at a steady pace.

    .venv/bin/python -m benchmarks.http_server.streamed_tokens --streams 64 256
    .venv/bin/python -m benchmarks.http_server.streamed_tokens --options "--stream-interval 8"

A real `headrace serve` answers chat completions over SSE; its clients are in this process. The CPU time is that of the
whole API process, user and system, from the moment that all streams have tokens until the first one ends. The engine's
part is the CPU time in which its loop groups the outputs of a step, and encodes and writes their message. Printed are
the medians of the rounds, and for the API process also the best and the worst one.
"""

import argparse
import asyncio
import os
import re
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass

import httpx
import msgspec

from benchmarks.http_server.load import post
from benchmarks.http_server.paced_engine import PACE_VARIABLE, TOKEN, use_paced_engine
from benchmarks.servers import CompareError, free_port, started

_FIRST_TOKENS, _LAST_TOKENS = 5, 5  # of a stream, that are not measured
_SEND_S = re.compile(r'^headrace_step_phase_seconds_total\{.*phase="send".*\} (\S+)$', re.MULTILINE)
_END = b"data: [DONE]"


@dataclass(frozen=True, slots=True)
class Figures:
    us_per_token: float
    send_us_per_step: float  # CPU time of the engine's loop
    tokens_per_event: float  # over 1 if the API process was late, and joined the tokens of several steps


def serve(port: int, options: list[str]) -> None:
    """Run the server, with the paced engine in place of the real one."""
    use_paced_engine()
    from server.cli import main as headrace

    sys.argv = ["headrace", "serve", "paced/engine", "--port", str(port), "--max-num-waiting", "2048", *options]
    sys.exit(headrace())


class Stream(asyncio.Protocol):
    """A client that sends one request and counts the tokens and events of its answer."""

    def __init__(self, request: bytes) -> None:
        self.num_tokens = self.num_events = 0
        self.ended = asyncio.get_running_loop().create_future()
        self._request = request
        self._last = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.num_tokens += data.count(TOKEN.encode())
        self.num_events += data.count(b"data: {")
        self._last = self._last[-len(_END) :] + data
        if _END in self._last:
            self._transport.close()
            self.ended.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(exc or ConnectionError(f"a stream broke off: {self._last[-300:]!r}"))


async def connect(port: int, request: bytes, num_streams: int) -> list[Stream]:
    """Open the connections, each of which sends the request."""
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(lambda: Stream(request), "127.0.0.1", port))[1] for _ in range(num_streams)]


async def _measure(port: int, pid: int, num_streams: int, num_tokens: int, fields: dict[str, object]) -> Figures:
    body = {"messages": [{"role": "user", "content": "Why?"}], "max_tokens": num_tokens, "stream": True, **fields}
    request = post("/v1/chat/completions", msgspec.json.encode(body))
    streams = await connect(port, request, num_streams)
    await _until(streams, lambda: min(each.num_tokens for each in streams) >= _FIRST_TOKENS)
    before = _Counts.now(port, pid, streams)
    await _until(streams, lambda: max(each.num_tokens for each in streams) >= num_tokens - _LAST_TOKENS)
    after = _Counts.now(port, pid, streams)
    await asyncio.gather(*(each.ended for each in streams))
    num_measured = after.tokens - before.tokens
    if not num_measured:
        raise CompareError("the streams ended before they were measured; choose a lower --rate, or more --tokens")
    return Figures(
        (after.cpu_s - before.cpu_s) / num_measured * 1e6,
        (after.send_s - before.send_s) / num_measured * num_streams * 1e6,
        num_measured / (after.events - before.events),
    )


async def _until(streams: list[Stream], is_over: Callable[[], bool]) -> None:
    while not is_over():
        for each in streams:
            if each.ended.done():
                each.ended.result()
        await asyncio.sleep(0.02)


@dataclass(frozen=True, slots=True)
class _Counts:
    cpu_s: float  # of the API process
    send_s: float  # of the engine
    tokens: int
    events: int

    @classmethod
    def now(cls, port: int, pid: int, streams: list[Stream]) -> "_Counts":
        (send_s,) = _SEND_S.findall(httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text)
        cpu_s = time.clock_gettime(~pid << 3 | 2)  # all threads of another process: Linux has a clock for each
        return cls(
            cpu_s, float(send_s), sum(each.num_tokens for each in streams), sum(each.num_events for each in streams)
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--rate", type=float, default=2000.0, help="tokens per second of all streams together")
    parser.add_argument("--tokens", type=int, default=100, help="of each stream")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fields", type=msgspec.json.decode, default={}, help='more of the request, such as {"n": 2}')
    parser.add_argument("--options", type=shlex.split, default=[], help="of headrace serve, in one argument")
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve is not None:
        serve(given.serve, given.options)
        return
    for num_streams in given.streams:
        os.environ[PACE_VARIABLE] = str(num_streams / given.rate)
        command = f"{sys.executable} -m benchmarks.http_server.streamed_tokens --serve {{port}}"
        command += f" --options={shlex.quote(shlex.join(given.options))}"
        port = free_port()
        with started(command, port, timeout_s=60) as server:
            rounds = [
                asyncio.run(_measure(port, server.pid, num_streams, given.tokens, given.fields))
                for _ in range(given.rounds)
            ]
        us, send_us, per_event = (statistics.median(each) for each in zip(*map(astuple, rounds), strict=True))
        best, worst = min(each.us_per_token for each in rounds), max(each.us_per_token for each in rounds)
        sys.stdout.write(
            f"{num_streams} streams: {us:.1f} us a token in the API process ({best:.1f} to {worst:.1f}), "
            f"{send_us:.0f} us a step in the engine, {per_event:.2f} tokens an event\n"
        )


if __name__ == "__main__":
    main()
