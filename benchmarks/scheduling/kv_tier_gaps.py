"""Gaps between the tokens of streams while blocks that other prompts evict are written to disk, against no tier.

    .venv/bin/python -m benchmarks.scheduling.kv_tier_gaps MODEL.gguf [--persist]

Streams decode while prompts without a cached prefix arrive one after another: each of their blocks evicts another. Two
engines, with and without a tier, take turns.
"""

import argparse
import random
import sys
import tempfile
import time
from statistics import mean, median

from benchmarks.results import machine_name
from engine.config import EngineConfig
from engine.engine import Engine
from engine.protocol import EngineRequest, SamplingParams
from engine.startup.build import build_engine
from server.loadtest.metrics import percentile

_FIRST_ID, _LAST_ID = 1000, 30_000
_CONTEXT = 64  # tokens of a stream's prompt


class Load:
    """Streams and prompts for one engine. written_bytes: of blocks in the tier. write_s: of its thread."""

    def __init__(self, engine: Engine, options: argparse.Namespace) -> None:
        self.engine = engine
        self.written_bytes, self.write_s, self.num_dropped = 0, 0.0, 0
        self._options = options
        self._random = random.Random(0)
        self._running: str | None = None  # id of the prompt that is computed now
        self._num_requests = 0

    def fill(self) -> None:
        """Compute prompts until every block of the pool is taken, so that each further one evicts another."""
        pool = self.engine._scheduler._kv.pool
        while pool.num_free > pool.num_free_cached + 1:
            self._step()

    def gaps_ms(self) -> list[float]:
        """Run a round of streams; return the milliseconds between their tokens."""
        gaps: list[float] = []
        names = [self._add(_CONTEXT, self._options.output) for _ in range(self._options.streams)]
        last: dict[str, float] = {}
        open_names = set(names)
        while open_names:
            ended = self._step()
            now_s = time.perf_counter()
            for name in open_names & ended.keys():
                if name in last:
                    gaps.append((now_s - last[name]) * 1000)
                last[name] = now_s
            open_names -= {name for name, has_ended in ended.items() if has_ended}
        return gaps

    def _step(self) -> dict[str, bool]:
        """Run a step, with a prompt beside the streams. Return the requests with new tokens, and whether each ended."""
        if self._running is None:
            self._running = self._add(self._options.prompt, 1)
        step = self.engine.step()
        outputs = {output.id: output.finish_reason is not None for output in step.outputs}
        self.written_bytes = step.stats.tier_bytes
        self.write_s += step.stats.tier_write_s
        self.num_dropped += step.stats.tier_dropped
        if outputs.get(self._running):
            self._running = None
        return outputs

    def _add(self, num_prompt: int, max_tokens: int) -> str:
        self._num_requests += 1
        ids = self._random.choices(range(_FIRST_ID, _LAST_ID), k=num_prompt)
        sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
        name = str(self._num_requests)
        self.engine.add(EngineRequest(id=name, prompt_ids=ids, sampling=sampling, arrival_s=time.monotonic()))
        return name


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.scheduling.kv_tier_gaps", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--output", type=int, default=96, help="tokens of a stream")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompts that arrive meanwhile")
    parser.add_argument("--kv-bytes", type=int, default=128 << 20, help="of each KV cache")
    parser.add_argument("--persist", action="store_true", help="write blocks when they are full (--kv-persist)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        loads = {"without": Load(_engine(options, None), options), "with": Load(_engine(options, folder), options)}
        for load in loads.values():
            load.fill()
        gaps: dict[str, list[list[float]]] = {name: [] for name in loads}
        for number in range(options.rounds):
            for name in [*loads][:: 1 if number % 2 else -1]:
                gaps[name].append(sorted(loads[name].gaps_ms()))
        report(gaps)
        tier = loads["with"]
        sys.stdout.write(
            f"{tier.written_bytes / 1e6:,.0f} MB on disk, written in {tier.write_s:.1f} s; "
            f"{tier.num_dropped:,} blocks dropped\n"
        )
        for load in loads.values():
            load.engine.close()
    return 0


def report(gaps: dict[str, list[list[float]]]) -> None:
    """Write a line for each statistic: the medians of the rounds, and of the ratios of rounds side by side."""
    sys.stdout.write(f"On {machine_name()}.\n")
    for title, of in (("mean", mean), ("p50", median), ("p95", lambda values: percentile(values, 0.95))):
        sides = {name: [of(values) for values in rounds] for name, rounds in gaps.items()}
        ratios = sorted(a / b for a, b in zip(sides["with"], sides["without"], strict=True))
        sys.stdout.write(
            f"{title}: {median(sides['without']):.2f} ms without, {median(sides['with']):.2f} ms with; ratio "
            f"{median(ratios):.3f} ({ratios[0]:.3f}-{ratios[-1]:.3f})\n"
        )


def _engine(options: argparse.Namespace, folder: str | None) -> Engine:
    config = EngineConfig(
        model=options.model,
        max_model_len=2048,
        threads=1,
        kv_cache_memory_bytes=options.kv_bytes,
        kv_offload_dir=folder,
        kv_persist=options.persist and folder is not None,
    )
    return build_engine(config, lambda *_: None)[0]


if __name__ == "__main__":
    sys.exit(main())
