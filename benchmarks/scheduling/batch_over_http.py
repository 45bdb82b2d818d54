"""Cost of a batch from /v1/batches for clients over HTTP: alternating turns with and without, on one real server.

    .venv/bin/python -m benchmarks.scheduling.batch_beside_clients MODEL.gguf --http [--clients 1 4] [--turns 6]

Clients stream chats by the official route, and think between them. In turns with a batch, a batch is created by the
official routes before the clients start, and canceled after them. The batch's rate is from the server's metrics, over
the time in which no client has a request. Prompts are computed faster than answers, and a new batch begins with prompts
only, so a batch without clients is measured over as much time from its start.
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

from benchmarks.servers import Server, free_port, started

_TIMEOUT_S = 600.0
_THINKING_S = (0.5, 2.5)  # of a client, between an answer and its next request
_CLIENT_WORDS, _CLIENT_OUTPUT = (40, 100), 48
_LINE_WORDS, _LINE_OUTPUT = (10, 40), (60, 120)
_LINES = 4000  # of a batch, more than a turn can run
_SETTLED_S = 2.0  # until a batch runs steadily
_WORDS = ["river", "stone", "lamp", "winter", "garden", "letter", "bridge", "morning", "window", "paper"]
_CHAT = "/v1/chat/completions"


def _body(rng: random.Random, num_words: int, max_tokens: int) -> dict[str, object]:
    """Return a unique request, so that the prefix cache helps only with the template."""
    content = f"{rng.random()} " + " ".join(rng.choices(_WORDS, k=num_words))
    return {"messages": [{"role": "user", "content": content}], "max_tokens": max_tokens, "ignore_eos": True}


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
    async with http.stream("POST", _CHAT, json=streamed) as answer:
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
            await _stream(http, _body(rng, rng.randint(*_CLIENT_WORDS), _CLIENT_OUTPUT), turn)
            idleness.end()

    await asyncio.gather(*map(client, range(num_clients)))
    turn.idle_s += idleness.idle_s


async def _counters(http: httpx.AsyncClient) -> tuple[float, float]:
    """Return the tokens computed for batches so far, and the recomputed tokens."""
    text = (await http.get("/metrics")).text
    found = {"prefill": 0.0, "decode": 0.0, "recomputed": 0.0}
    for line in text.splitlines():
        if line.startswith("headrace_batch_computed_tokens_total{"):
            labels, _, value = line.rpartition(" ")
            found[next(kind for kind in found if f'kind="{kind}"' in labels)] += float(value)
    return found["prefill"] + found["decode"], found["recomputed"]


async def _begin_batch(http: httpx.AsyncClient, seed: int) -> str:
    """Create a batch and return its id once it runs."""
    rng = random.Random(f"batch {seed}")
    lines = [
        {
            "custom_id": str(number),
            "method": "POST",
            "url": _CHAT,
            "body": _body(rng, rng.randint(*_LINE_WORDS), rng.randint(*_LINE_OUTPUT)),
        }
        for number in range(_LINES)
    ]
    data = "\n".join(map(json.dumps, lines)).encode()
    uploaded = await http.post("/v1/files", files={"file": ("lines.jsonl", data)}, data={"purpose": "batch"})
    uploaded.raise_for_status()
    asked = {"input_file_id": uploaded.json()["id"], "endpoint": _CHAT, "completion_window": "24h"}
    created = await http.post("/v1/batches", json=asked)
    created.raise_for_status()
    while (await _counters(http))[0] == 0:
        await asyncio.sleep(0.05)
    await asyncio.sleep(_SETTLED_S)
    return str(created.json()["id"])


async def _end_batch(http: httpx.AsyncClient, batch_id: str) -> None:
    (await http.post(f"/v1/batches/{batch_id}/cancel")).raise_for_status()
    while (await http.get(f"/v1/batches/{batch_id}")).json()["status"] != "cancelled":
        await asyncio.sleep(0.05)


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
    batch_id = await _begin_batch(http, seed) if with_batch else None
    tokens, recomputed = await _counters(http)
    api_pid = min(server.pids())  # the first of the family
    began_s, api_s = time.monotonic(), _processor_s(api_pid)
    if num_clients:
        await _clients(http, num_clients, options.requests, seed, turn)
    else:
        await asyncio.sleep(alone_s)
        turn.idle_s = alone_s
    turn.wall_s = time.monotonic() - began_s
    turn.api_s = _processor_s(api_pid) - api_s
    after, recomputed_after = await _counters(http)
    turn.batch_tokens, turn.recomputed = after - tokens, recomputed_after - recomputed
    if batch_id is not None:
        await _end_batch(http, batch_id)
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
