"""A server with far more requests than it can serve: which are served, which are refused, and at what cost.

    .venv/bin/python -m benchmarks.reliability.overload --model smollm2.gguf

The server starts with 8 sequences and 16 waiting requests. The load comes from this process, which uses some processor
time itself. `--parts` chooses:

- alone: 8 clients, one request after the other: latencies without overload;
- load: 1,000 connections, 200 requests per second: statuses, the time of a refusal, latencies of served requests;
- retry: 100 clients that obey Retry-After: how often they try until each has its answer;
- leave: 1,000 clients that leave in the middle of their request;
- slow: long texts that are slow to tokenize, from clients that wait and from clients that leave;
- slo: the same load with --ttft-slo: predicted and real times to the first token.

Memory is resident, of the server process and the engine process. Linux only.
"""

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from benchmarks.raw_http import Answer, RawConnection
from benchmarks.servers import Server, started

CHAT = "/v1/chat/completions"
NUM_PLACES, NUM_WAITING = 8, 16
NUM_CONNECTIONS, RATE = 1000, 200.0
_SETTLED_S = 3.0
_WORDS = ["river", "stone", "lamp", "winter", "garden", "letter", "bridge", "morning", "window", "paper"]


def chat(source: random.Random, *, num_words: int = 60, max_tokens: int = 48) -> dict[str, object]:
    """Return a unique request, so that the prefix cache helps only with the template."""
    content = " ".join(source.choices(_WORDS, k=num_words)) + f" {source.random()}"
    return {
        "messages": [{"role": "user", "content": content}],
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "stream": True,
        "temperature": 0,
    }


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Watch:
    """The processes' memory, threads and open files: before, at the peak, and after."""

    def __init__(self, server: Server) -> None:
        self._pids = sorted(server.pids())
        self._peak = self._now()
        self._before = self._peak

    def _now(self) -> dict[str, tuple[int, ...]]:
        found: dict[str, list[int]] = {"MiB": [], "threads": [], "files": []}
        for pid in self._pids:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            fields = dict(line.split(":", 1) for line in lines if ":" in line)
            found["MiB"].append(int(fields["VmRSS"].split()[0]) // 1024)
            found["threads"].append(int(fields["Threads"]))
            found["files"].append(len(list(Path(f"/proc/{pid}/fd").iterdir())))
        return {name: tuple(values) for name, values in found.items()}

    async def during(self, work: Awaitable[None]) -> None:
        """Wait for the work, and print its cost."""
        task = asyncio.ensure_future(work)
        while not task.done():
            await asyncio.wait({task}, timeout=0.25)
            now = self._now()
            self._peak = {name: tuple(map(max, self._peak[name], now[name])) for name in now}
        task.result()
        await asyncio.sleep(_SETTLED_S)
        after = self._now()
        for name, before in self._before.items():
            say(f"  {name:8} before {before}, at most {self._peak[name]}, then {after[name]}")


def tell_latencies(name: str, answers: Sequence[Answer]) -> None:
    for what, values in (("first token", [a.first_s for a in answers]), ("end", [a.end_s for a in answers])):
        say(f"  {name} {what}: p50 {quantile(values, 0.5):.3f} s, p99 {quantile(values, 0.99):.3f} s")


async def alone(url: str, seconds: float) -> list[Answer]:
    """Run one client for each sequence of the server, each with one request after the other."""
    answers: list[Answer] = []
    end_s = time.monotonic() + seconds

    async def client(number: int) -> None:
        source = random.Random(number)
        async with RawConnection(url) as connection:
            while time.monotonic() < end_s:
                answers.append(await connection.post(CHAT, chat(source)))

    await asyncio.gather(*(client(number) for number in range(NUM_PLACES)))
    assert {answer.status for answer in answers} == {200}
    tell_latencies("8 clients,", answers)
    return answers


async def load(
    url: str,
    seconds: float,
    rate: float = RATE,
    make: Callable[[random.Random], dict[str, object]] = chat,
    num_connections: int = NUM_CONNECTIONS,
) -> list[Answer]:
    """Send requests at random times over open connections; another one is opened if all are busy.

    The server closes connections that send nothing for ten seconds, so each must have its turn before.
    """
    answers: list[Answer] = []
    failures: Counter[str] = Counter()
    source = random.Random(0)
    free = [RawConnection(url) for _ in range(num_connections)]
    for connection in free:
        await connection.open()
    if free:
        say(f"  {len(free)} connections are open")

    async def send(connection: RawConnection, body: dict[str, object]) -> None:
        try:
            if not connection.is_open:
                await connection.open()
            answers.append(await connection.post(CHAT, body))
            free.append(connection)
        except (OSError, EOFError, TimeoutError) as error:
            failures[type(error).__name__] += 1

    sent: list[asyncio.Task[None]] = []
    next_s = time.monotonic()
    end_s = next_s + seconds
    while (next_s := next_s + source.expovariate(rate)) < end_s:
        await asyncio.sleep(max(0.0, next_s - time.monotonic()))
        connection = free.pop(0) if free else RawConnection(url)
        sent.append(asyncio.create_task(send(connection, make(source))))
    await asyncio.gather(*sent)
    for connection in free:
        connection.close()
    statuses = Counter(answer.status for answer in answers)
    say(f"  {len(sent)} requests in {seconds:g} s: {dict(statuses)}, without an answer: {dict(failures) or 'none'}")
    refused = [answer.end_s for answer in answers if answer.status == 429]
    say(f"  refused: p50 {quantile(refused, 0.5) * 1000:.1f} ms, p99 {quantile(refused, 0.99) * 1000:.1f} ms")
    return answers


async def retry(url: str, num_clients: int = 100) -> None:
    """Run clients that obey Retry-After."""
    began_s = time.monotonic()
    attempts: list[int] = []

    async def client(number: int) -> None:
        source = random.Random(number)
        body = chat(source, max_tokens=16)
        async with RawConnection(url) as connection:
            attempt = 1
            while (answer := await connection.post(CHAT, body)).status != 200:
                assert answer.status == 429
                await asyncio.sleep(int(answer.headers["retry-after"]) + source.random())
                attempt += 1
            attempts.append(attempt)

    await asyncio.gather(*(client(number) for number in range(num_clients)))
    say(
        f"  {num_clients} clients have their answers after {time.monotonic() - began_s:.0f} s and "
        f"{sum(attempts) / num_clients:.1f} attempts each, at most {max(attempts)}"
    )


async def leave(url: str, num_clients: int = 1000) -> None:
    """Run clients that close their connection within a fifth of a second."""

    async def client(number: int) -> None:
        source = random.Random(number)
        await asyncio.sleep(source.uniform(0, 5))
        async with RawConnection(url) as connection:
            connection.send(CHAT, chat(source, num_words=source.choice([20, 200, 900])))
            await asyncio.sleep(source.uniform(0, 0.2))

    await asyncio.gather(*(client(number) for number in range(num_clients)))


async def slow(url: str, num_requests: int = 60) -> None:
    """Send texts without a space, in letters for which a vocabulary has few words; every other client leaves."""

    async def client(number: int) -> None:
        source = random.Random(number)
        size = 200_000
        text = "".join(source.choices("<#@0aé漢", k=size)) if number % 4 < 2 else source.choice("<a0 ") * size
        async with RawConnection(url) as connection:
            if number % 2:
                connection.send("/tokenize", {"prompt": text})
                await asyncio.sleep(0.05)
            else:
                await connection.post("/tokenize", {"prompt": text})

    for first in range(0, num_requests, 20):
        await asyncio.gather(*(client(number) for number in range(first, first + 20)))


def mixed(source: random.Random) -> dict[str, object]:
    """Return a request with a random length of prompt and answer, which the server does not know beforehand."""
    return chat(source, num_words=source.choice([20, 60, 200, 400]), max_tokens=1 + int(source.expovariate(1 / 40)))


async def slo(url: str, seconds: float, slo_s: float) -> None:
    answers = await load(url, seconds, 4.0, mixed, num_connections=0)
    taken = [answer for answer in answers if answer.status == 200]
    in_time = sum(answer.first_s <= slo_s for answer in taken) / max(1, len(taken))
    say(f"  --ttft-slo {slo_s:g}: {len(taken)} of {len(answers)} taken; {in_time:.1%} had their first token in time")
    tell_latencies("taken,", taken)
    waits = [(float(a.headers["x-predicted-ttft"]), a.first_s) for a in taken if "x-predicted-ttft" in a.headers]
    for low, high in ((0.1, 0.5), (0.5, 1), (1, 2), (2, 4), (4, 8), (8, 16)):
        ratios = [real / predicted for predicted, real in waits if low <= predicted < high]
        if ratios:
            say(
                f"  predicted {low:g} to {high:g} s: {len(ratios):3} requests, real over predicted "
                f"p10 {quantile(ratios, 0.1):.2f}, p50 {quantile(ratios, 0.5):.2f}, p90 {quantile(ratios, 0.9):.2f}"
            )


async def measure(parts: Sequence[str], server: Server, seconds: float, slo_s: float | None) -> None:
    await asyncio.sleep(_SETTLED_S)
    quiet: list[Answer] = []
    if "alone" in parts:
        say("alone")
        quiet = await alone(server.url, seconds)
    if "load" in parts:
        say("load")
        answers: list[Answer] = []

        async def run() -> None:
            answers.extend(await load(server.url, seconds))

        await Watch(server).during(run())
        served = [answer for answer in answers if answer.status == 200]
        tell_latencies("served,", served)
        if quiet:
            medians = [quantile([a.end_s - a.first_s for a in each], 0.5) for each in (served, quiet)]
            say(f"  from the first token to the last: {medians[0] / medians[1]:.2f} times that of the 8 clients alone")
    for name, part in (("retry", retry), ("leave", leave), ("slow", slow)):
        rounds = ("",) if name == "retry" else ("", ", again")  # threads and the like exist the second time
        for again in rounds if name in parts else ():
            say(name + again)
            await Watch(server).during(part(server.url))
    if slo_s is not None:
        say("slo")
        await slo(server.url, seconds, slo_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, default=8321)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each part that has a rate")
    parser.add_argument("--slo", type=float, nargs="*", default=[2.0, 10.0], help="limits of the part slo")
    parser.add_argument("--parts", nargs="+", default=["alone", "load", "retry", "leave", "slow", "slo"])
    given = parser.parse_args()
    options = f"--port {{port}} --max-num-seqs {NUM_PLACES} --max-model-len 2048 --no-log-requests"
    options += " --kv-cache-memory-bytes 64MiB"  # a larger cache is resident only once it has been used
    command = f"headrace serve {given.model} {options}"
    if set(given.parts) - {"slo"}:
        with started(f"{command} --max-num-waiting {NUM_WAITING}", given.port, 300) as server:
            asyncio.run(measure(given.parts, server, given.seconds, None))
    for slo_s in given.slo if "slo" in given.parts else ():
        with started(f"{command} --ttft-slo {slo_s}", given.port, 300) as server:
            asyncio.run(measure((), server, given.seconds, slo_s))


if __name__ == "__main__":
    main()
