"""Cost of a batch from /v1/batches for clients over HTTP: alternating turns with and without, on one real server.

    .venv/bin/python -m benchmarks.scheduling.batch_beside_clients MODEL.gguf --http [--clients 1 4] [--turns 6]

Clients stream chats by the official route, and think between them. In turns with a batch, a batch is created by the
official routes before the clients start, and canceled after them. With `--synthesis`, it is `headrace synthesize
self-instruct` that runs against the server, and is interrupted after them. The batch's rate is from the server's
metrics, over the time in which no client has a request. Prompts are computed faster than answers, and a new batch
begins with prompts only, so a batch without clients is measured over as much time from its start.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import shlex
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks.scheduling.background import CHAT, OfficialBatch, Synthesis, chat_body, computed_tokens
from benchmarks.servers import Server, free_port, started

_TIMEOUT_S = 600.0
_THINKING_S = (0.5, 2.5)  # of a client, between an answer and its next request
_CLIENT_WORDS, _CLIENT_OUTPUT = (40, 100), 48


@dataclass(slots=True)
class Turn:
    """Times of clients and work of the server. Times are in seconds."""

    ttft_s: list[float] = field(default_factory=list)
    token_s: list[float] = field(default_factory=list)  # mean of each request
    idle_s: float = 0.0  # in which no client had a request
    batch_tokens: float = 0.0  # of the batch, without those that were computed again
    recomputed: float = 0.0
    api_s: float = 0.0  # processor time of the process that speaks HTTP
    wall_s: float = 0.0

    def add(self, other: "Turn") -> None:
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Idleness:
    """The time in which no client had a request."""

    def __init__(self) -> None:
        self.idle_s = 0.0
        self._num_open = 0
        self._since_s = time.monotonic()

    def begin(self) -> None:
        if not self._num_open:
            self.idle_s += time.monotonic() - self._since_s
        self._num_open += 1

    def end(self) -> None:
        self._num_open -= 1
        self._since_s = time.monotonic()


async def _stream(http: httpx.AsyncClient, body: dict[str, object], turn: Turn) -> None:
    began_s = time.monotonic()
    first_s = last_s = None
    num_tokens = 0
    streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
    async with http.stream("POST", CHAT, json=streamed) as answer:
        answer.raise_for_status()
        async for data in _events(answer):
            if data.get("usage"):
                num_tokens = data["usage"]["completion_tokens"]
            elif data["choices"] and data["choices"][0]["delta"].get("content"):
                last_s = time.monotonic()
                first_s = first_s or last_s
    assert first_s is not None
    assert last_s is not None
    turn.ttft_s.append(first_s - began_s)
    turn.token_s.append((last_s - first_s) / (num_tokens - 1))


async def _events(answer: httpx.Response) -> AsyncIterator[dict]:
    async for line in answer.aiter_lines():
        if line.startswith("data: {"):
            yield json.loads(line[6:])


async def _clients(http: httpx.AsyncClient, num_clients: int, num_requests: int, seed: int, turn: Turn) -> None:
    idleness = Idleness()

    async def client(number: int) -> None:
        rng = random.Random(f"{seed} {number}")
        for _ in range(num_requests):
            await asyncio.sleep(rng.uniform(*_THINKING_S))
            idleness.begin()
            await _stream(http, chat_body(rng, rng.randint(*_CLIENT_WORDS), _CLIENT_OUTPUT), turn)
            idleness.end()

    await asyncio.gather(*map(client, range(num_clients)))
    turn.idle_s += idleness.idle_s


def _processor_s(pid: int) -> float:
    """Return the processor time of a process. Linux only."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _turn(
    http: httpx.AsyncClient,
    server: Server,
    options: argparse.Namespace,
    num_clients: int,
    *,
    with_batch: bool,
    alone_s: float = 0.0,
) -> Turn:
    """Run one turn; without clients, `alone_s` of the batch."""
    turn, seed = Turn(), next(options.seeds)
    background = await options.background.begin(http, seed) if with_batch else None
    tokens, recomputed = await computed_tokens(http)
    api_pid = min(server.pids())  # the first of the family
    began_s, api_s = time.monotonic(), _processor_s(api_pid)
    if num_clients:
        await _clients(http, num_clients, options.requests, seed, turn)
    else:
        await asyncio.sleep(alone_s)
        turn.idle_s = alone_s
    turn.wall_s = time.monotonic() - began_s
    turn.api_s = _processor_s(api_pid) - api_s
    after, recomputed_after = await computed_tokens(http)
    turn.batch_tokens, turn.recomputed = after - tokens, recomputed_after - recomputed
    if background is not None:
        await background.end()
    return turn


def _ms(values: Sequence[float]) -> str:
    return f"{statistics.median(values) * 1000:.1f} ms"


async def _compare(http: httpx.AsyncClient, server: Server, options: argparse.Namespace, num_clients: int) -> str:
    """Return a row of the table."""
    without, beside, alone = Turn(), Turn(), Turn()
    for number in range(options.turns):
        idle_s = 0.0
        for with_batch in (False, True) if number % 2 else (True, False):
            turn = await _turn(http, server, options, num_clients, with_batch=with_batch)
            (beside if with_batch else without).add(turn)
            if with_batch:
                idle_s = turn.idle_s
        alone.add(await _turn(http, server, options, 0, with_batch=True, alone_s=idle_s))
    ratio = statistics.median(beside.token_s) / statistics.median(without.token_s)
    later_s = statistics.median(beside.ttft_s) - statistics.median(without.ttft_s)
    rates = [turn.batch_tokens / turn.idle_s for turn in (alone, beside)]
    share = beside.recomputed / (beside.batch_tokens + beside.recomputed)
    busy = [turn.api_s / turn.wall_s for turn in (without, beside, alone)]
    return (
        f"| {num_clients} | {_ms(without.token_s)} | {_ms(beside.token_s)} | {ratio:.3f} | {_ms(without.ttft_s)} "
        f"| {_ms(beside.ttft_s)} | {later_s * 1000:+.1f} ms | {rates[0]:.0f} | {rates[1]:.0f} "
        f"| {rates[1] / rates[0]:.2f} | {share:.1%} | {busy[0]:.0%}, {busy[1]:.0%}, {busy[2]:.0%} |"
    )


async def _measure(server: Server, options: argparse.Namespace) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=_TIMEOUT_S, trust_env=False) as http:
        await _clients(http, max(options.clients), 1, -1, Turn())  # warm-up
        for num_clients in options.clients:
            sys.stdout.write(await _compare(http, server, options, num_clients) + "\n")
            sys.stdout.flush()


def compare_over_http(options: argparse.Namespace) -> int:
    port = free_port()
    options.seeds = itertools.count()
    options.background = Synthesis if options.synthesis else OfficialBatch
    command = (
        f"headrace serve {shlex.quote(options.model)} --port {port} --kv-cache-memory-bytes {options.kv_bytes} "
        f"--batch-step-ms {options.batch_step_ms}"
    )
    sys.stdout.write(
        "| clients | per token | with batch | ratio | first token | with batch | later by | batch alone, tokens/s "
        "| beside clients | ratio | recomputing | API process: without, beside, alone |\n|" + " ---: |" * 12 + "\n"
    )
    with started(command, port, _TIMEOUT_S) as server:
        asyncio.run(_measure(server, options))
    return 0
