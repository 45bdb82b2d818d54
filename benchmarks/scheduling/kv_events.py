"""What `--kv-events` costs: processor and wall time of the same requests, with a subscriber and without the option.

    .venv/bin/python -m benchmarks.scheduling.kv_events MODEL.gguf [--rounds 8]

Two servers take turns, each frozen while the other works. A round is 40 completions, 8 at a time, of random prompts, so
that every block is new; the cache is small, so that blocks are evicted, too. A ratio is the median over the rounds;
processor time is that of all of a server's processes, and other work on the machine disturbs it less.
"""

import argparse
import random
import shlex
import statistics
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import zmq

from benchmarks.embeddings.speed import processor_s
from benchmarks.results import machine_name
from benchmarks.servers import Server, free_port, started
from benchmarks.tables import markdown

_REQUESTS, _CLIENTS, _PROMPT, _OUTPUT = 40, 8, 240, 32
_CACHE = "96MiB"  # of the KV cache: 4,000 tokens of SmolLM2 135M in bf16
_MAX_ID = 5_000
_START_S, _TIMEOUT_S = 300.0, 300.0


class Subscriber:
    """A thread that receives all batches of an address, and counts them."""

    def __init__(self, address: str) -> None:
        self.num_batches = 0
        self._socket = zmq.Context.instance().socket(zmq.SUB)
        self._socket.connect(address)
        self._socket.subscribe("")
        threading.Thread(target=self._receive, daemon=True).start()

    def _receive(self) -> None:
        while True:
            self._socket.recv_multipart()
            self.num_batches += 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.scheduling.kv_events", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    command = (
        f"headrace serve {shlex.quote(options.model)} --port {{port}} --threads {options.threads} "
        f"--served-model-name model --kv-cache-memory-bytes {_CACHE}"
    )
    address = f"tcp://127.0.0.1:{free_port()}"
    with (
        started(command, free_port(), _START_S) as plain,
        started(f"{command} --kv-events {address}", free_port(), _START_S) as telling,
    ):
        subscriber = Subscriber(address)
        times = measure(plain, telling, options.rounds)
    rows = [
        [
            name,
            *(f"{statistics.median(each[name] for each in kind):.2f} s" for kind in times.values()),
            _ratio(times, name),
        ]
        for name in ("processor", "wall")
    ]
    sys.stdout.write(f"On {machine_name()}; {subscriber.num_batches:,} batches of events were received.\n\n")
    sys.stdout.write(markdown(["time", "without", "with events", "ratio"], rows) + "\n")
    return 0


def measure(plain: Server, telling: Server, num_rounds: int) -> dict[str, list[dict[str, float]]]:
    """Return the times of each round, of the server without events and of that with them."""
    times: dict[str, list[dict[str, float]]] = {"without": [], "with": []}
    for seed in range(-1, num_rounds):  # the first round warms up
        order = [("without", plain, telling), ("with", telling, plain)]
        for name, server, other in order if seed % 2 else reversed(order):
            with other.frozen():
                begin_s, processor = time.monotonic(), processor_s(server.pids())
                _round(server.url, seed)
                each = {"processor": processor_s(server.pids()) - processor, "wall": time.monotonic() - begin_s}
            times[name] += [each] * (seed >= 0)
    return times


def _round(url: str, seed: int) -> None:
    draw = random.Random(seed)
    prompts = [[draw.randrange(100, _MAX_ID) for _ in range(_PROMPT)] for _ in range(_REQUESTS)]
    with httpx.Client(timeout=_TIMEOUT_S, trust_env=False) as client, ThreadPoolExecutor(_CLIENTS) as threads:

        def ask(prompt: list[int]) -> None:
            body = {"model": "model", "prompt": prompt, "max_tokens": _OUTPUT, "ignore_eos": True, "temperature": 0}
            client.post(f"{url}/v1/completions", json=body).raise_for_status()

        list(threads.map(ask, prompts))


def _ratio(times: dict[str, list[dict[str, float]]], name: str) -> str:
    pairs = zip(times["without"], times["with"], strict=True)
    ratios = sorted(telling[name] / plain[name] for plain, telling in pairs)
    return f"{statistics.median(ratios):.3f} ({ratios[0]:.3f}-{ratios[-1]:.3f})"


if __name__ == "__main__":
    raise SystemExit(main())
