"""Prefixes of many tenants on two servers behind a front: how much of them comes from the prefix caches.

    .venv/bin/python -m benchmarks.scheduling.prefix_affinity MODEL.gguf "sh deploy/fronts/smg.sh" \\
      --kv-cache-memory-bytes 256MiB

Starts two servers with one thread each (arguments that this command does not know are theirs, and come last) and the
front, which the command must start on port 8080 for servers on 8000 and 8001, as deploy/fronts does; free ports replace
these. Each tenant's prompts begin with the same text of about 1,000 tokens, and end with a question of their own. In
each round every tenant asks once, in an order that is drawn. The share of the prompts' tokens that was cached is summed
after the first round. Exits with 1 if it is below --least.
"""

import argparse
import asyncio
import contextlib
import random
import re
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx

from benchmarks.servers import CompareError, free_port, started

_WORDS = ["river", "stone", "lamp", "winter", "garden", "letter", "bridge", "morning", "window", "paper"]
_START_S = 300.0


def tenant_prefix(tenant: int, num_words: int) -> str:
    """Return a tenant's text. The first word has its number, so that no two prefixes begin alike."""
    words = random.Random(tenant).choices(_WORDS, k=num_words)
    return f"Tenant {tenant}: {' '.join(words)}."


def front_command(command: str, ports: dict[int, int], folder: Path) -> str:
    """Return a command with other ports, in its words and in the files that it names. folder: for copies of these."""
    words = []
    for word in shlex.split(command):
        file = Path(word)
        if file.is_file() and "fronts" in file.parts:
            copy = folder / file.name
            copy.write_text(_replace_ports(file.read_text(), ports))
            words.append(str(copy))
        else:
            words.append(_replace_ports(word, ports))
    return shlex.join(words)


def _replace_ports(text: str, ports: dict[int, int]) -> str:
    return re.sub(r"\b\d+\b", lambda match: str(ports.get(int(match[0]), match[0])), text)


async def ask(http: httpx.AsyncClient, model: str, prompt: str) -> tuple[int, int, float]:
    """Return the prompt's tokens, how many of them were cached, and the seconds until the answer."""
    began_s = time.perf_counter()
    answer = await http.post("/v1/completions", json={"model": model, "prompt": prompt, "max_tokens": 8})
    answer.raise_for_status()
    usage = answer.json()["usage"]
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return usage["prompt_tokens"], cached, time.perf_counter() - began_s


async def run_rounds(url: str, model: str, options: argparse.Namespace) -> tuple[float, float]:
    """Return the cached share of the prefixes' tokens after the first round, and the median seconds of an answer."""
    prefixes = [tenant_prefix(tenant, options.words) for tenant in range(options.tenants)]
    places = asyncio.Semaphore(options.concurrency)
    order = random.Random(0)
    num_tokens = num_cached = 0
    seconds: list[float] = []
    async with httpx.AsyncClient(base_url=url, timeout=600, trust_env=False) as http:

        async def one(prefix: str, number: int) -> tuple[int, int, float]:
            async with places:
                return await ask(http, model, f"{prefix} Question {number}?")

        for number in range(options.rounds):
            order.shuffle(prefixes)
            results = await asyncio.gather(*(one(prefix, number) for prefix in prefixes))
            total, cached = sum(tokens for tokens, _, _ in results), sum(each for _, each, _ in results)
            sys.stdout.write(f"round {number}: {cached / total:.1%} of {total:,} prompt tokens cached\n")
            if number > 0:
                num_tokens += total
                num_cached += cached
                seconds += [each for _, _, each in results]
    return num_cached / num_tokens, statistics.median(seconds)


def main() -> None:
    """Measure, print the share, and exit with 1 if it is too low."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("front", help="command of the front")
    parser.add_argument("--events", action="store_true", help="servers publish KV events on ports 5557 and 5558")
    parser.add_argument("--tenants", type=int, default=17)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--words", type=int, default=960, help="of a prefix")
    parser.add_argument("--concurrency", type=int, default=2)
    parser.add_argument("--least", type=float, default=0.0, help="share below which this exits with 1")
    options, for_servers = parser.parse_known_args()
    if options.rounds < 2:
        parser.error(f"--rounds is {options.rounds}; give 2 or more: the first one only fills the caches")
    ports = {port: free_port() for port in (8000, 8001, 8080, 5557, 5558)}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        try:
            for server, events in ((8000, 5557), (8001, 5558)):
                command = ["headrace", "serve", options.model, "--port", "{port}", "--threads", "1", *for_servers]
                if options.events:
                    command += ["--kv-events", f"tcp://127.0.0.1:{ports[events]}"]
                stack.enter_context(started(shlex.join(command), ports[server], _START_S))
            front = front_command(options.front, ports, Path(folder))
            served = stack.enter_context(started(front, ports[8080], _START_S))
            model = httpx.get(f"{served.url}/v1/models", trust_env=False).json()["data"][0]["id"]
            share, median_s = asyncio.run(run_rounds(served.url, model, options))
        except CompareError as error:
            sys.exit(str(error))
    sys.stdout.write(f"after the first round: {share:.1%} cached, an answer in {median_s:.2f} s (median)\n")
    if share < options.least:
        sys.exit(f"less than {options.least:.0%} of the prompt tokens came from the caches")


if __name__ == "__main__":
    main()
