"""Waiting time of a request for a model that must be loaded in place of another.

    .venv/bin/python -m benchmarks.scheduling.model_swaps FIRST.gguf SECOND.gguf

The server has memory for one of the two at a time. Their weights are in the weight cache, and are mapped. Also
measured: the same request to a loaded model, and many concurrent requests to both. No answer may be missing, or come
from the other model.
"""

import argparse
import concurrent.futures
import contextlib
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from benchmarks.servers import free_port, started

_TIMEOUT_S = 600
_NAMES = ("first", "second")
_KV_BYTES = 256 << 20


def _config(models: list[str]) -> str:
    lines = [
        f"  {name}: {{model: {model!r}, kv-cache-memory-bytes: {_KV_BYTES}}}"
        for name, model in zip(_NAMES, models, strict=True)
    ]
    return "\n".join(["load-on-demand: true", "models:", *lines, ""])


def _ask(client: httpx.Client, name: str, text: str = "hi") -> float:
    """Return the seconds to the complete answer of one token."""
    body = {"model": name, "messages": [{"role": "user", "content": text}], "max_tokens": 1}
    began_s = time.monotonic()
    answer = client.post("/v1/chat/completions", json=body)
    answer.raise_for_status()
    assert answer.json()["model"] == name, "each is answered by its own model"
    return time.monotonic() - began_s


def _need_bytes(client: httpx.Client) -> list[int]:
    cards = {card["id"]: card for card in client.get("/v1/models").json()["data"]}
    return [cards[name]["headrace"]["memory_bytes"] for name in _NAMES]


def _measure(client: httpx.Client, rounds: int) -> None:
    for name in _NAMES:  # packs the weights, unless they are cached
        _ask(client, name)
    swaps: dict[str, list[float]] = {name: [] for name in _NAMES}
    loaded: dict[str, list[float]] = {name: [] for name in _NAMES}
    for _ in range(rounds):
        for name in _NAMES:
            swaps[name].append(_ask(client, name))
            loaded[name].append(_ask(client, name))
    for name in _NAMES:
        _print(
            f"{name}: {_shown(swaps[name])} where the other one is loaded, {_shown(loaded[name])} where it is itself"
        )
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        began_s = time.monotonic()
        times = list(pool.map(lambda number: _ask(client, _NAMES[number % 2], f"number {number}"), range(16 * rounds)))
    _print(
        f"{len(times)} requests to both in turn, 16 at once: all answered, in {time.monotonic() - began_s:.1f} s; the "
        f"longest took {max(times):.1f} s"
    )


def _shown(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scheduling.model_swaps")
    parser.add_argument("models", nargs=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "headrace.yaml")
        file.write_text(_config(options.models))
        with _server(file, "") as client:
            needs = _need_bytes(client)
        with _server(file, f"--models-memory {max(needs) + min(needs) // 2}") as client:
            _measure(client, options.rounds)
    return 0


@contextlib.contextmanager
def _server(file: Path, options: str) -> Iterator[httpx.Client]:
    """Start a server that ends with the context, and yield a client."""
    port = free_port()
    command = f"headrace serve --config {shlex.quote(str(file))} --port {port} {options}"
    with started(command, port, _TIMEOUT_S) as server, httpx.Client(base_url=server.url, timeout=_TIMEOUT_S) as client:
        yield client


if __name__ == "__main__":
    sys.exit(main())
