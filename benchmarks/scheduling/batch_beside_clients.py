"""Cost of a batch for clients, and of clients for a batch: alternating turns with and without, in one engine.

    .venv/bin/python -m benchmarks.scheduling.batch_beside_clients MODEL.gguf [--clients 1 4] [--turns 6]

Each client sends a request, reads its answer, thinks for a while and sends the next. A batch always has lines waiting;
in turns with the batch, the engine computes them while the clients think. Prompts are random, so that only preempted
ones are cached. With `--http` the same is measured over HTTP, on a real server (batch_over_http.py). With `--synthesis`
too, the batches are those of a run of `headrace synthesize`.
"""

import argparse
import itertools
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.engine_clients import EngineClients, Sent
from benchmarks.scheduling.batch_over_http import compare_over_http
from engine.config import EngineConfig
from engine.engine import Engine
from engine.protocol import ServiceClass, StepStats
from engine.startup.build import build_engine

_KV_BYTES = 1 << 30
_THINKING_S = (0.5, 2.5)  # of a client, between an answer and its next request
_CLIENT_PROMPT, _CLIENT_OUTPUT = (60, 140), 48
_LINE_PROMPT, _LINE_OUTPUT = (20, 60), (60, 120)
_LINES_AHEAD = 96  # of the batch, in the engine


@dataclass(slots=True)
class Batch:
    """The work of a batch in steps without clients."""

    steps_s: float = 0.0
    num_tokens: int = 0  # of prompts and outputs
    recomputed_s: float = 0.0  # of `steps_s`, by the share of their tokens
    num_recomputed: int = 0
    step_s: list[float] = field(default_factory=list)

    def count(self, stats: StepStats, step_s: float) -> None:
        num_tokens = stats.batch_prefill_tokens + stats.batch_decode_tokens
        if num_tokens == 0:
            return
        self.steps_s += step_s
        self.step_s.append(step_s)
        self.num_tokens += num_tokens
        self.num_recomputed += stats.batch_recomputed_tokens
        self.recomputed_s += step_s * stats.batch_recomputed_tokens / num_tokens

    @property
    def rate(self) -> float:
        """Tokens per second, prompts included, without recomputed tokens and their time."""
        return (self.num_tokens - self.num_recomputed) / (self.steps_s - self.recomputed_s)


@dataclass(slots=True)
class Turns:
    """Times of clients over all turns of one kind."""

    ttft_s: list[float] = field(default_factory=list)
    token_s: list[float] = field(default_factory=list)  # between two of a request

    def add(self, sent: Sent) -> None:
        self.ttft_s.append(sent.ttft_s)
        self.token_s += [after - before for before, after in itertools.pairwise(sent.token_s)]


def run_turn(
    engine: Engine,
    vocab_size: int,
    clock: Callable[[], float],
    *,
    num_clients: int,
    num_requests: int,
    with_batch: bool,
    seed: int,
    limit_s: float,
) -> tuple[list[Sent], Batch]:
    """Run one turn: `num_requests` of each client, or, without clients, `limit_s` of the batch."""
    rng = random.Random(seed)
    clients, batch = EngineClients(engine, vocab_size, seed, clock), Batch()
    left = dict.fromkeys(range(num_clients), num_requests)
    client_of: dict[str, int] = {}
    answered: list[Sent] = []

    def ask(client: int, after_s: float) -> None:
        left[client] -= 1
        sent = clients.send(rng.randint(*_CLIENT_PROMPT), _CLIENT_OUTPUT, after_s=after_s)
        client_of[sent.request.id] = client

    def feed() -> None:
        clients.send(rng.randint(*_LINE_PROMPT), rng.randint(*_LINE_OUTPUT), service_class=ServiceClass.BATCH)

    def on_end(sent: Sent) -> None:
        client = client_of.get(sent.request.id)
        if client is None:
            feed()
            return
        answered.append(sent)
        if left[client]:
            ask(client, rng.uniform(*_THINKING_S))

    began_s = clients.now_s
    if with_batch:
        for _ in range(_LINES_AHEAD):
            feed()
        clients.run(lambda: clients.now_s > began_s + limit_s / 2)  # until it runs steadily
    for client in range(num_clients):
        ask(client, rng.uniform(*_THINKING_S))
    began_s = clients.now_s

    def is_over() -> bool:
        if num_clients:
            return len(answered) == num_clients * num_requests
        return clients.now_s > began_s + limit_s

    clients.run(is_over, on_end, batch.count)
    clients.leave()
    return answered, batch


def _ms(values: Sequence[float]) -> str:
    return f"{statistics.median(values) * 1000:.1f} ms"


def compare(engine: Engine, vocab_size: int, options: argparse.Namespace, num_clients: int) -> str:
    """Return a row of the table."""
    turns = {False: Turns(), True: Turns()}
    batches: dict[bool, list[Batch]] = {False: [], True: []}  # with clients or without
    for turn in range(options.turns):
        for with_batch in (False, True) if turn % 2 else (True, False):
            answered, batch = run_turn(
                engine,
                vocab_size,
                options.clock,
                num_clients=num_clients,
                num_requests=options.requests,
                with_batch=with_batch,
                seed=next(options.seeds),
                limit_s=options.alone_s,
            )
            for sent in answered:
                turns[with_batch].add(sent)
            if with_batch:
                batches[True].append(batch)
        _, alone = run_turn(
            engine,
            vocab_size,
            options.clock,
            num_clients=0,
            num_requests=0,
            with_batch=True,
            seed=next(options.seeds),
            limit_s=options.alone_s,
        )
        batches[False].append(alone)
    without, beside = turns[False], turns[True]
    ratio = statistics.median(beside.token_s) / statistics.median(without.token_s)
    later_s = statistics.median(beside.ttft_s) - statistics.median(without.ttft_s)
    rates = {kind: statistics.median(batch.rate for batch in each) for kind, each in batches.items()}
    steps_s = [step_s for batch in batches[True] for step_s in batch.step_s]
    recomputed = sum(batch.recomputed_s for batch in batches[True]) / sum(batch.steps_s for batch in batches[True])
    return (
        f"| {num_clients} | {_ms(without.token_s)} | {_ms(beside.token_s)} | {ratio:.3f} | {_ms(without.ttft_s)} "
        f"| {_ms(beside.ttft_s)} | {later_s * 1000:+.1f} ms | {_ms(steps_s)} | {rates[False]:.0f} | {rates[True]:.0f} "
        f"| {rates[True] / rates[False]:.2f} | {recomputed:.1%} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.scheduling.batch_beside_clients", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("model")
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--turns", type=int, default=6, help="with and without a batch, of each")
    parser.add_argument("--requests", type=int, default=4, help="of each client in a turn")
    parser.add_argument(
        "--alone-s", type=float, default=8.0, help="seconds of a batch alone, in each turn; not with --http"
    )
    parser.add_argument(
        "--batch-step-ms", type=float, default=EngineConfig.__dataclass_fields__["batch_step_ms"].default
    )
    parser.add_argument("--http", action="store_true", help="on a real server, with a batch from /v1/batches")
    parser.add_argument("--synthesis", action="store_true", help="with --http: beside `headrace synthesize --server`")
    parser.add_argument(
        "--processor-time",
        dest="clock",
        action="store_const",
        const=time.process_time,
        default=time.monotonic,
        help="of one thread, for the engine too, where others use the machine",
    )
    options = parser.parse_args()
    if options.synthesis and not options.http:
        parser.error("--synthesis needs a server; add --http")
    if options.http:
        options.kv_bytes = _KV_BYTES
        return compare_over_http(options)
    options.seeds = itertools.count()  # a repeated prompt would be cached
    threads = None
    if options.clock is time.process_time:
        threads, time.perf_counter = 1, time.process_time
    config = EngineConfig(
        model=options.model, kv_cache_memory_bytes=_KV_BYTES, batch_step_ms=options.batch_step_ms, threads=threads
    )
    engine, info = build_engine(config, lambda *_: None)
    sys.stdout.write(
        "| clients | per token | with batch | ratio | first token | with batch | later by | batch step | batch alone, "
        "tokens/s | beside clients | ratio | recomputing |\n|" + " ---: |" * 12 + "\n"
    )
    for num_clients in options.clients:
        sys.stdout.write(compare(engine, info.vocab_size, options, num_clients) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
