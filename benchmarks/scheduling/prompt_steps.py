"""Time of a step that computes a few tokens of a long prompt with four streams, by the tokens' position.

    .venv/bin/python -m benchmarks.scheduling.prompt_steps MODEL.gguf

The shortest of several steps, in processor time of one thread. Keys and values are random, which take as long as
others.
"""

import argparse
import sys
import time
from typing import Any

import torch

from engine.config import EngineConfig
from engine.protocol import EngineRequest, SamplingParams
from engine.scheduling.kv.groups import standalone_tables
from engine.scheduling.plan import PlanItem, Runner, StepPlan, run_step
from engine.scheduling.sequence import Sequence
from engine.startup.build import build_engine

_NUM_STREAMS, _STREAM_TOKENS, _KV_BYTES = 4, 64, 1 << 30


def _item(runner: Runner[Any], position: int, num_new: int, first_block: int) -> PlanItem:
    """Return an item of tokens from a position on; only an item of a single token needs logits."""
    tokens = [5] * (position + num_new)
    sampling = SamplingParams(max_tokens=1, temperature=0.0)
    request = EngineRequest(id=str(first_block), prompt_ids=tokens, sampling=sampling, arrival_s=0.0)
    tables = standalone_tables(runner.kv_groups, len(tokens), first_block)
    sequence = Sequence(request=request, seed=0, tokens=tokens, num_prompt=len(tokens), tables=tables)
    return PlanItem(sequence, position, num_new, 0, needs_logits=position == _STREAM_TOKENS)


def step_ms(runner: Runner[Any], plan: StepPlan, num_steps: int) -> float:
    times_s = []
    for _ in range(num_steps + 1):  # the first step records a tape
        began_s = time.process_time()
        run_step(runner, plan)
        times_s.append(time.process_time() - began_s)
    return min(times_s[1:]) * 1000


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.scheduling.prompt_steps", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("model", help="with full attention alone")
    parser.add_argument("--positions", nargs="+", type=int, default=[0, 4000, 15_000, 29_000])
    parser.add_argument("--tokens", nargs="+", type=int, default=[1, 2, 3, 4, 8, 16])
    parser.add_argument("--steps", type=int, default=4, help="of each kind")
    options = parser.parse_args()
    config = EngineConfig(model=options.model, kv_cache_memory_bytes=_KV_BYTES, threads=1)
    engine, info = build_engine(config, lambda *_: None)
    assert info.kv_windows == [None], "tables of full attention alone"
    runner = engine._runner
    for cache in runner._kv:  # type: ignore[attr-defined]
        if isinstance(cache, torch.Tensor) and cache.is_floating_point():
            cache.normal_()
    blocks = -(-(max(options.positions) + max(options.tokens)) // info.block_size)
    width = -(-(_STREAM_TOKENS + 1) // info.block_size)
    streams = [_item(runner, _STREAM_TOKENS, 1, blocks + index * width) for index in range(_NUM_STREAMS)]
    sys.stdout.write(f"streams alone: {step_ms(runner, StepPlan(streams), options.steps):.1f} ms\n")
    for position in options.positions:
        plans = {number: StepPlan([*streams, _item(runner, position, number, 0)]) for number in options.tokens}
        times = [f"{step_ms(runner, plan, options.steps):.1f} with {number}" for number, plan in plans.items()]
        sys.stdout.write(f"tokens from {position:,} on: {', '.join(times)}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
