"""Gaps between a stream's tokens beside a decision of many questions, and beside a prompt of as many tokens.

headrace serve model.gguf --threads 1
python -m benchmarks.decisions.beside http://127.0.0.1:8000 --questions 400 --tokens 200
"""

import argparse
import contextlib
import itertools
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator

import httpx

from benchmarks.decisions.cost import Server, write
from benchmarks.tables import markdown


@contextlib.contextmanager
def stream(url: str, model: str, arrivals_s: list[float]) -> Iterator[None]:
    """Stream a completion until the end of the block, and append the time of each of its events to `arrivals_s`."""
    is_over, has_begun = threading.Event(), threading.Event()

    def read() -> None:
        body = {"model": model, "prompt": "Once upon a time", "stream": True, "max_tokens": 8000, "ignore_eos": True}
        with (
            httpx.Client(timeout=3600.0, trust_env=False) as client,
            client.stream("POST", f"{url}/v1/completions", json=body) as response,
        ):
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    arrivals_s.append(time.perf_counter())
                    has_begun.set()
                if is_over.is_set():
                    return

    reader = threading.Thread(target=read)
    reader.start()
    has_begun.wait()
    yield
    is_over.set()
    reader.join()


def gaps_beside(url: str, model: str, work: Callable[[], object]) -> list[float]:
    """Return the gaps, in seconds, between tokens of a stream while `work` runs."""
    arrivals_s: list[float] = []
    with stream(url, model, arrivals_s):
        time.sleep(1)
        began_s = time.perf_counter()
        work()
        ended_s = time.perf_counter()
    return [after - before for before, after in itertools.pairwise(arrivals_s) if before < ended_s and after > began_s]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--questions", type=int, default=400)
    parser.add_argument("--tokens", type=int, default=200, help="of the input, nearly")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=time.time_ns())
    args = parser.parse_args()
    server, draw = Server(args.url, None), random.Random(args.seed)
    num_tokens = server.decide(args.questions, args.tokens, draw)[1] + 8 * args.questions
    ways: dict[str, Callable[[], object]] = {
        f"decision of {args.questions} questions": lambda: server.decide(args.questions, args.tokens, draw),
        f"prompt of {num_tokens:,} tokens": lambda: server.prefill(num_tokens, draw),
    }
    gaps: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(args.rounds):
        for name in list(ways)[:: 1 if number % 2 else -1]:
            gaps[name] += gaps_beside(args.url, server.model, ways[name])
    rows = []
    for name, taken in gaps.items():
        parts = statistics.quantiles(taken, n=100)
        rows.append(
            [name, str(len(taken)), *(f"{1000 * each:.0f}" for each in (parts[49], parts[89], parts[98], max(taken)))]
        )
    write(markdown(("beside", "gaps", "p50 ms", "p90 ms", "p99 ms", "largest ms"), rows))


if __name__ == "__main__":
    main()
